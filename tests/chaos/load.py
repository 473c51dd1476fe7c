"""Submits jobs and reads them to their end, whatever goes away meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.chaos.ledger import LEDGER, Accepted, Books
from tests.client import Client, events_of
from tests.repositories import archive_of_files

OPEN_JOBS = 3
"""That each submitter has at once."""

AGAIN_S = 0.1
SUBMIT_DEADLINE_S = 90.0
READ_TIMEOUT_S = 30.0
MOST_LINES = 30
KILLED_IN_THE_MAKING = (
    "could not be started: The sandbox ended: it was killed",
    "could not be started: its runtime did not start",
)
TEMPORARY = (409, 429, 502, 503)
"""Answers after which the same request is sent again, under the same key."""


class Load:
    """Some submitters, each with a line of jobs; each job has a reader of its own."""

    def __init__(self, api: Client, books: Books, boxes: list[str], seed: int) -> None:
        self._api = api
        self._books = books
        self._seed = seed
        self._stopped = threading.Event()
        self._readers: list[threading.Thread] = []
        lanes = [
            *((self._session_job, box) for box in boxes),
            *((self._lone_job, box) for box in boxes),
            (self._build, ""),
        ]
        self._submitters = [
            threading.Thread(target=self._submit_all, args=(submit, box, n), name=f"submitter {n}")
            for n, (submit, box) in enumerate(lanes)
        ]

    def start(self) -> None:
        for submitter in self._submitters:
            submitter.start()

    def finish(self, deadline_s: float) -> None:
        """Submits no more, and reads what was accepted to its end."""
        self._stopped.set()
        deadline = time.monotonic() + deadline_s
        self._join(self._submitters, deadline)
        self._join(self._readers, deadline)  # of which no new one starts now

    def _join(self, threads: list[threading.Thread], deadline: float) -> None:
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._books.fail(f"{thread.name} did not end in time")
                return

    def _submit_all(self, submit: Callable[..., Accepted | None], box: str, index: int) -> None:
        rng = random.Random(f"{self._seed} {index}")
        count = 0
        free = threading.Semaphore(OPEN_JOBS)
        while not self._stopped.is_set():
            if not free.acquire(timeout=0.1):
                continue
            count += 1
            job = submit(box, f"line-{index}-{count}", rng.randrange(MOST_LINES))
            if job is None:
                free.release()
                continue
            self._books.accept(job)
            reader = threading.Thread(target=self._read, args=(job, free), name=f"reader {job.id}")
            self._readers.append(reader)
            reader.start()

    def _session_job(self, box: str, line: str, count: int) -> Accepted | None:
        body = {"command": _script(line, count)}
        return self._accepted(f"/v1/sandboxes/{box}/exec", body, line, _printed(count))

    def _lone_job(self, box: str, line: str, count: int) -> Accepted | None:
        """A program of its own, which waits for no other."""
        body = {"argv": ["bash", "-c", _script(line, count)]}
        return self._accepted(f"/v1/sandboxes/{box}/exec", body, line, _printed(count))

    def _build(self, _: str, line: str, count: int) -> Accepted | None:
        steps = [
            {"name": "first", "commands": ["cat greeting.txt"]},
            {"name": "second", "commands": [_counting(count)]},
        ]
        body = {"archive": archive_of_files(), "steps": steps, "sandbox": {"network": "none"}}
        return self._accepted("/v1/builds", body, "", "hello\n" + _printed(count), key=line)

    def _accepted(
        self, path: str, body: dict[str, Any], line: str, prints: str, key: str = ""
    ) -> Accepted | None:
        """None where it was to end before it was accepted."""
        headers = {"Prefer": "respond-async", "Idempotency-Key": key or line}
        deadline = time.monotonic() + SUBMIT_DEADLINE_S
        while time.monotonic() < deadline:
            try:
                answer = self._api.http.post(path, json=body, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                return Accepted(str(answer.json()["id"]), line, prints)
            if answer is not None and not _may_pass(answer):
                self._books.fail(f"{path} was answered {answer.status_code} {answer.text}")
                return None
            time.sleep(AGAIN_S)
        said = "nothing" if answer is None else f"{answer.status_code} {answer.text}"
        self._books.fail(f"{path} was not accepted in {SUBMIT_DEADLINE_S:.0f} s; it said {said}")
        return None

    def _read(self, job: Accepted, free: threading.Semaphore) -> None:
        while not job.ended:
            try:
                self._read_some(job)
            except httpx.TransportError:
                time.sleep(AGAIN_S)
        free.release()

    def _read_some(self, job: Accepted) -> None:
        after = {"Last-Event-ID": job.received[-1].id} if job.received else {}
        with self._api.http.stream(
            "GET", f"/v1/jobs/{job.id}/events", headers=after, timeout=READ_TIMEOUT_S
        ) as answer:
            if answer.status_code == 200:
                job.received.extend(events_of(answer))
            elif answer.status_code in TEMPORARY:
                time.sleep(AGAIN_S)
            else:
                answer.read()
                self._books.fail(f"job {job.id} was answered {answer.status_code} {answer.text}")
                raise SystemExit


def _may_pass(answer: httpx.Response) -> bool:
    """Whether the same may be accepted a moment later."""
    return answer.status_code in TEMPORARY or any(
        reason in answer.text for reason in KILLED_IN_THE_MAKING
    )


def _script(line: str, count: int) -> str:
    return f"echo {line} >> {LEDGER}; {_counting(count)}"


def _counting(count: int) -> str:
    return f"for n in $(seq {count}); do echo $n; sleep 0.03; done"


def _printed(count: int) -> str:
    return "".join(f"{n}\n" for n in range(1, count + 1))
