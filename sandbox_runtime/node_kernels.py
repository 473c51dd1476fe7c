"""Starts a kernel of our own in the user's Node.js, and speaks with it directly."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Mapping

import msgspec

from sandbox_runtime.child_output import ChildOutput
from sandbox_runtime.delegate_messages import (
    LENGTH,
    MAX_REPORT_BYTES,
    Answer,
    CellEnded,
    CellReport,
    CellStarted,
    Enter,
    Execute,
    Interrupt,
    NodeReport,
    Printed,
    Ready,
    Rehearse,
    Shown,
    framed,
)
from sandbox_runtime.kernels import (
    INTERPRETERS,
    LAST_WORDS_TIMEOUT_S,
    LINE_BYTES,
    Kernel,
    KernelLost,
    KernelNotStarted,
    last_line,
)
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.events import CellException, Stream
from sandbox_runtime.settings import Settings

PROGRAM = "node_kernel.cjs"

NODE = "node"
"""Looked for in the user's PATH."""


PRINTED_AS = {b"\1": Stream.STDOUT, b"\2": Stream.STDERR}
"""Reports that are not JSON: what comes after such a byte was printed."""


class NodeKernel(Kernel):
    """One process, which reports on a socket of its own.

    What it reports is the user's word for what the user's code does, as hostile as that.
    """

    def __init__(self, programs: UserPrograms, settings: Settings) -> None:
        super().__init__(programs, settings)
        self._arrived = asyncio.Event()
        """Something can be taken, from its reports or from a pipe."""
        self._reports = _Reports(self._arrived)
        self._orders: asyncio.Transport | None = None
        self._pipes: list[ChildOutput] = []

    async def execute(self, cell: Execute) -> AsyncGenerator[CellReport, None]:
        self._reports.take()  # What no cell has waited for.
        for pipe in self._pipes:
            pipe.listen()
        self._order(cell)
        try:
            while not self._reports.ended and await self._has_arrived():
                reports = self._reports.take()
                # What was printed before them is in the pipes by now.
                for pipe in self._pipes:
                    for printed in pipe.take():
                        yield printed
                for report in reports:
                    yield _cell_report(report)
                    if isinstance(report, CellEnded):
                        return
            exit_code = await self._exit_code()
            for pipe in self._pipes:
                for printed in pipe.take():
                    yield printed
        finally:
            for pipe in self._pipes:
                pipe.ignore()
        raise KernelLost(exit_code)

    async def rehearse(self) -> None:
        await self._answers(Rehearse())

    async def enter(self, language: str, cwd: str) -> None:
        for report in await self._answers(Enter(language=language, cwd=cwd)):
            if isinstance(report, CellException):
                missing = report.name == "Missing"
                raise KernelNotStarted(f"{report.name}: {report.value}", missing=missing)
        if not self.alive:
            raise KernelNotStarted("it ended", missing=False)

    async def answer(self, value: str) -> None:
        self._order(Answer(value=value))

    async def interrupt(self) -> None:
        if self._process is not None and self.alive:
            self._group.send(signal.SIGINT, except_pid=self._process.pid)
            if self._orders is not None and not self._orders.get_write_buffer_size():
                self._order(Interrupt())  # Else it does not even read the orders before.

    async def close(self) -> None:
        await super().close()
        self._reports.close()
        if self._orders is not None:
            self._orders.close()
        for pipe in self._pipes:
            pipe.close()

    async def _start(self, cwd: str, env: Mapping[str, str | None]) -> None:
        program = self._directory / PROGRAM
        program.write_bytes((INTERPRETERS / PROGRAM).read_bytes())
        self._give_to_user(program)
        reports, its_reports = socket.socketpair()
        orders, its_orders = socket.socketpair()
        ends: list[int] = []
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self._reports, sock=reports)
            self._orders, _ = await loop.create_connection(asyncio.Protocol, sock=orders)
            self._orders.pause_reading()
            for stream in Stream:
                ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._pipes.append(ChildOutput(ours, stream, self._arrived))
                ends.append(theirs)
                os.set_blocking(theirs, True)
            descriptors = (its_reports.fileno(), its_orders.fileno())
            self._process = self._programs.spawn(
                [NODE, "--expose-internals", str(program), *map(str, descriptors)],
                cwd=cwd,
                env=self._programs.environment(env),
                stdin=subprocess.DEVNULL,
                stdout=ends[0],
                stderr=ends[1],
                pass_fds=descriptors,
                group=self._group,
            )
        except (FileNotFoundError, PermissionError) as error:
            message = f"{NODE} cannot be started: {error.strerror}"
            raise KernelNotStarted(message, missing=True) from error
        finally:
            for end in ends:
                os.close(end)
            for connection in (its_reports, its_orders):
                connection.close()
        self._ended = asyncio.ensure_future(self._programs.wait(self._process))
        self._ended.add_done_callback(lambda _: self._arrived.set())
        complaints = self._pipes[-1]
        complaints.listen()
        said = ""
        while not self._reports.has_some() and not self._reports.ended:
            if not await self._has_arrived():
                break
            said = (said + "".join(one.data for one in complaints.take()))[-LINE_BYTES:]
        complaints.ignore()
        if not any(isinstance(report, Ready) for report in self._reports.take()):
            await asyncio.wait({self._ended}, timeout=LAST_WORDS_TIMEOUT_S)
            complaint = last_line(said) or f"{NODE} did not become a kernel"
            raise KernelNotStarted(complaint, missing=False)
        self._lock_directory()

    async def _answers(self, order: msgspec.Struct) -> list[NodeReport]:
        """What it reports to an order, while no cell runs."""
        self._order(order)
        while not self._reports.has_some() and await self._has_arrived():
            pass
        return self._reports.take()

    async def _has_arrived(self) -> bool:
        """Waits for more to take; False where there will be none, whoever holds the other ends."""
        try:
            async with asyncio.timeout(None if self.alive else LAST_WORDS_TIMEOUT_S):
                await self._arrived.wait()
        except TimeoutError:
            return False
        self._arrived.clear()
        return True

    def _order(self, order: msgspec.Struct) -> None:
        assert self._orders is not None
        self._orders.write(framed(order))


class _Reports(asyncio.Protocol):
    """What the kernel reports, in the order in which it does; read no faster than it is taken."""

    def __init__(self, arrived: asyncio.Event) -> None:
        self.ended = False
        """The kernel has closed its end, or says what no kernel of ours would."""
        self._arrived = arrived
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        decoder = codecs.getincrementaldecoder("utf-8")
        self._printed = {stream: decoder("replace") for stream in Stream}
        self._decoder: msgspec.json.Decoder[NodeReport] = msgspec.json.Decoder(NodeReport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._held += data
        if self.has_some():
            self._transport.pause_reading()
            self._arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = not self.has_some()
        self._transport = None
        self._arrived.set()

    def has_some(self) -> bool:
        """Whether there is a whole report; one that is too large counts, for `take` to refuse."""
        if len(self._held) < LENGTH.size:
            return False
        size: int = LENGTH.unpack_from(self._held)[0]
        return size > MAX_REPORT_BYTES or len(self._held) >= LENGTH.size + size

    def take(self) -> list[NodeReport]:
        """Those that are there now."""
        reports: list[NodeReport] = []
        printed: list[bytes] = []
        stream: Stream | None = None

        def tell_printed() -> None:
            if stream is not None and printed:
                text = self._printed[stream].decode(b"".join(printed))
                reports.append(Printed(stream=stream, data=text))
                printed.clear()

        start = 0
        try:
            while start + LENGTH.size <= len(self._held):
                (size,) = LENGTH.unpack_from(self._held, start)
                end = start + LENGTH.size + size
                if size > MAX_REPORT_BYTES:
                    raise msgspec.DecodeError("too large")
                if end > len(self._held):
                    break
                # Of its own: what is shown holds on to the bytes that it came in.
                body = bytes(self._held[start + LENGTH.size : end])
                start = end
                of = PRINTED_AS.get(body[:1])
                if of is not stream:
                    tell_printed()
                    stream = of
                if of is None:
                    reports.append(self._decoder.decode(body))
                else:
                    printed.append(body[1:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.ended = True
        tell_printed()
        del self._held[:start]
        if self._transport is None:
            self.ended = True
        else:
            self._transport.resume_reading()
        return reports

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _cell_report(report: NodeReport) -> CellReport:
    match report:
        case Shown():
            # It takes 2 MB, which sandboxes without JavaScript do without.
            from sandbox_runtime.results import shown

            return shown(
                report.data,
                is_main=report.is_main,
                display_id=report.display_id,
                update=report.update,
            )
        case Ready():
            return CellStarted()  # Forged, as no kernel of ours says it twice.
        case _:
            return report
