"""Finds a pattern in the lines that a process prints, in time linear to their length.

It is linear to the size of the expression, too: a search may take seconds, and is for a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sandbox_runtime.protocol.errors import InvalidRequest
from sandbox_runtime.protocol.events import RuntimeEvent, Stderr, Stdout, Stream
from sandbox_runtime.protocol.processes import LogMatch

if TYPE_CHECKING:
    import re2

MAX_LINE_CHARS = 64 * 1024
"""A longer line is looked at in pieces of so much."""

MAX_PATTERN_MEMORY_BYTES = 1024 * 1024
"""Of a compiled expression."""


class LineSearch:
    """Takes events as they come. A line is looked at when it has ended, or `unfinished` is asked.

    RE2, and not `re`: an expression of a user's may be made to take for ever.
    """

    def __init__(self, pattern: str, *, regex: bool) -> None:
        """Raises `InvalidRequest` where it is no expression."""
        self._pattern = _compiled(pattern, literal=not regex)
        self._rest = dict.fromkeys(Stream, "")

    def feed(self, event: RuntimeEvent) -> LogMatch | None:
        """The first match in the lines that the event ends."""
        if not isinstance(event, Stdout | Stderr):
            return None
        stream = Stream.STDOUT if isinstance(event, Stdout) else Stream.STDERR
        *lines, rest = (self._rest[stream] + event.data).split("\n")
        pieces = [piece for line in lines for piece in _pieces(line)]
        *long, rest = _pieces(rest)
        self._rest[stream] = rest
        return next(filter(None, (self._match(stream, line) for line in [*pieces, *long])), None)

    def unfinished(self) -> LogMatch | None:
        """The match in a line that has not ended, as a prompt; asked when nothing follows it."""
        matches = (self._match(stream, line) for stream, line in self._rest.items())
        return next(filter(None, matches), None)

    def _match(self, stream: Stream, line: str) -> LogMatch | None:
        line = line.removesuffix("\r")
        found = self._pattern.search(line)
        if found is None:
            return None
        return LogMatch(
            stream=stream,
            line=line,
            text=found.group(),
            groups=list(found.groups()),
            named_groups=found.groupdict(),
        )


def _compiled(pattern: str, *, literal: bool) -> re2.Pattern:
    import re2

    options = re2.Options()
    options.literal = literal
    options.max_mem = MAX_PATTERN_MEMORY_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else ""
        raise InvalidRequest(f"the pattern is no regular expression of RE2: {reason}") from error


def _pieces(line: str) -> Iterator[str]:
    yield line[:MAX_LINE_CHARS]
    for start in range(MAX_LINE_CHARS, len(line), MAX_LINE_CHARS):
        yield line[start : start + MAX_LINE_CHARS]
