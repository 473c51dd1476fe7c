"""Tells a person how a long piece of work is going, with the seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

SILENCE_S = 10.0  # after so long without a line a person wonders whether anything still happens


class Progress:
    """Prints lines with the seconds since it was made; from any thread."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._started_s = clock()
        self._last_line_s = self._started_s
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        with self._lock:
            self._last_line_s = self._clock()
            elapsed_s = self._last_line_s - self._started_s
            print(f"[{elapsed_s:6.1f} s] {line}", file=self._out, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Says every now and then that `name` is still at work, while nothing else is said."""
        done = threading.Event()
        thread = threading.Thread(target=self._break_silence, args=(name, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _break_silence(self, name: str, done: threading.Event) -> None:
        started_s = self._clock()
        while not done.wait(timeout=1.0):
            now_s = self._clock()
            if now_s - self._last_line_s >= SILENCE_S:
                self(f"{name}: still at work ({now_s - started_s:.0f} s)")
