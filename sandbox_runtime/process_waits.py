"""Waits for a process: for its end, for a port, for a line."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Executor

from sandbox_runtime.line_search import LineSearch
from sandbox_runtime.processes import Process
from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import ProcessEnded, ProcessWaitTimedOut
from sandbox_runtime.protocol.processes import (
    LogMatch,
    StatusRange,
    Waited,
    WaitFor,
    WaitForExit,
    WaitForLog,
    WaitForPort,
)

MAX_SEARCHES = 2
"""At once, in a sandbox. One that nobody waits for any more ends with the event that it is at."""

UNFINISHED_LINE_S = 0.1
"""A line that has not ended is looked at when nothing has followed it for so long."""

PORT_POLL_S = 0.05

PORT_TRY_S = 5.0
"""What a server may take to accept a connection, or to begin its answer."""

MAX_STATUS_LINE_BYTES = 4096

LAST_LOG_CHARS = 500
"""Of either stream, in the error that says that the process has ended."""

LOOPBACK = ("127.0.0.1", "::1")


async def wait_for(process: Process, wanted: WaitFor, searches: Executor) -> Waited:
    """Lines are looked at in `searches`, a few threads.

    Raises `ProcessWaitTimedOut`, `ProcessEnded`, `InvalidRequest`.
    """
    match = None
    try:
        async with asyncio.timeout(wanted.timeout_ms / 1000):
            match wanted:
                case WaitForExit():
                    await process.ended.wait()
                case WaitForPort():
                    await _port(process, wanted)
                case WaitForLog():
                    match = await _line(process, wanted, searches)
    except TimeoutError:
        raise ProcessWaitTimedOut(
            f"the process {process.id} {_not_seen(wanted)} within {wanted.timeout_ms} ms"
        ) from None
    info = process.info()
    return Waited(**{name: getattr(info, name) for name in info.__struct_fields__}, match=match)


async def _line(process: Process, wanted: WaitForLog, searches: Executor) -> LogMatch:
    loop = asyncio.get_running_loop()
    search = LineSearch(wanted.pattern, regex=wanted.regex)
    decoder = codec.LineDecoder()
    async for lines, last in process.journal.read(0, heartbeat_s=UNFINISHED_LINE_S):
        for numbered in decoder.feed(lines):
            # A large expression takes seconds for one event; the others' calls, and this one's
            # time, go on meanwhile: RE2 searches without the interpreter's lock.
            match = await loop.run_in_executor(searches, search.feed, numbered.event)
            if match is not None:
                return match
        if last or not lines:
            match = await loop.run_in_executor(searches, search.unfinished)
            if match is not None:
                return match
    raise _ended(process, wanted)


async def _port(process: Process, wanted: WaitForPort) -> None:
    while not await _answers(wanted):
        if process.ended.is_set():
            raise _ended(process, wanted)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PORT_POLL_S):
                await process.ended.wait()


async def _answers(wanted: WaitForPort) -> bool:
    for host in LOOPBACK:
        with contextlib.suppress(OSError, ValueError):  # A TimeoutError is an OSError.
            async with asyncio.timeout(PORT_TRY_S):
                reader, writer = await asyncio.open_connection(
                    host, wanted.port, limit=MAX_STATUS_LINE_BYTES
                )
                try:
                    if wanted.path is None or await _status_is_right(reader, writer, wanted):
                        return True
                finally:
                    writer.transport.abort()
    return False


async def _status_is_right(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: WaitForPort
) -> bool:
    """Raises `ValueError` where the answer is none of HTTP."""
    writer.write(
        f"GET {wanted.path} HTTP/1.1\r\nHost: localhost:{wanted.port}\r\n"
        "User-Agent: coldframe\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
    )
    version, code, *_ = (await reader.readline()).split(maxsplit=2)
    if not version.startswith(b"HTTP/"):
        return False
    match wanted.status:
        case StatusRange(min=lowest, max=highest):
            return lowest <= int(code) <= highest
        case exact:
            return int(code) == exact


def _ended(process: Process, wanted: WaitFor) -> ProcessEnded:
    info, logs = process.info(), process.journal.text
    how = info.error or f"exit code {info.exit_code}"
    told = "".join(
        f"; last {stream}: {text.strip()[-LAST_LOG_CHARS:]}"
        for stream, text in (("stdout", logs.stdout), ("stderr", logs.stderr))
        if text.strip()
    )
    return ProcessEnded(f"the process {process.id} ended ({how}) and {_not_seen(wanted)}{told}")


def _not_seen(wanted: WaitFor) -> str:
    match wanted:
        case WaitForExit():
            return "did not end"
        case WaitForPort(port=port, path=None):
            return f"did not listen on port {port}"
        case WaitForPort(port=port, path=path):
            return f"did not answer as it should on port {port} at {path}"
        case WaitForLog(pattern=pattern):
            return f"did not print {pattern!r}"
