"""Reads the stream of messages in which the engine tells of a build."""

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

INSTRUCTION_WIDTH = 100  # characters of a Dockerfile instruction that a progress line shows
KEPT_OUTPUT_LINES = 40  # what an error shows of the step that failed
TOLD_STEP_S = 1.0  # a quicker step's time is not worth a line

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the engine colours what comes from stderr
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")


@dataclass(frozen=True, slots=True)
class StepStarted:
    number: int
    total: int
    instruction: str


@dataclass(frozen=True, slots=True)
class Output:
    """Text that a step printed: part of a line, one line or several."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    reason: str


BuildEvent: TypeAlias = StepStarted | Output | Failed


def parse_message(message: Mapping[str, object]) -> BuildEvent | None:
    """One message of the engine's classic builder; None: it tells nothing (such as an image id)."""
    error, text = message.get("error"), message.get("stream")
    if isinstance(error, str):
        return Failed(error.strip())
    if not isinstance(text, str):
        return None
    step = _STEP.match(text)
    if step is None:
        return Output(_COLOUR.sub("", text))
    return StepStarted(int(step[1]), int(step[2]), " ".join(step[3].split()))


class BuildReport:
    """Turns a build's events into progress lines: each step as it starts, and its time if long."""

    def __init__(self) -> None:
        self._step: StepStarted | None = None
        self._step_started_s = 0.0
        self._output: deque[str] = deque(maxlen=KEPT_OUTPUT_LINES)

    @property
    def last_output(self) -> str:
        """The end of what the current step printed."""
        return "".join(self._output).strip()

    def tell(self, event: BuildEvent, *, now_s: float) -> list[str]:
        """The lines to print when `event` comes at `now_s`, a monotonic time."""
        match event:
            case StepStarted():
                lines = [*self.end(now_s=now_s), f"{_place(event)} {_shortened(event.instruction)}"]
                self._step, self._step_started_s = event, now_s
                self._output.clear()
                return lines
            case Output(text):
                self._output.extend(text.splitlines(keepends=True))
                return []
            case Failed():
                return self.end(now_s=now_s)

    def end(self, *, now_s: float) -> list[str]:
        """The line that says how long the current step took; none if it was quick."""
        took_s = now_s - self._step_started_s
        if self._step is None or took_s < TOLD_STEP_S:
            return []
        return [f"{_place(self._step)} took {took_s:.1f} s"]


def _place(step: StepStarted) -> str:
    return f"step {step.number}/{step.total}:"


def _shortened(instruction: str) -> str:
    if len(instruction) <= INSTRUCTION_WIDTH:
        return instruction
    return instruction[: INSTRUCTION_WIDTH - 1] + "…"
