"""Runs programs on terminals of their own (PTYs), which many can look at and type into."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import struct
import subprocess
import termios
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path

from sandbox_runtime.argv import argv_of, told
from sandbox_runtime.journal import timestamp
from sandbox_runtime.programs import DEFAULT_PATH, UserPrograms
from sandbox_runtime.protocol.errors import (
    InvalidRequest,
    TerminalInputRefused,
    TerminalNotFound,
    TerminalNotStarted,
    TooManyTerminals,
)
from sandbox_runtime.protocol.requests import ExecRequest, Session
from sandbox_runtime.protocol.terminals import StartTerminal, TerminalInfo, TerminalList
from sandbox_runtime.sessions import check

MAX_RUNNING = 32

MAX_ENDED = 8
"""Terminals whose program has ended, kept for who comes back to see how; the oldest goes first."""

SCREEN_BYTES = 256 * 1024
"""Of what was printed, for who comes later."""

READ_BYTES = 64 * 1024

HIGH_WATER_BYTES = 128 * 1024
"""How far the fastest viewer may be behind before the program has to wait."""

INPUT_TIMEOUT_S = 5.0
"""What a program that does not read may keep somebody from typing on."""

TERM = "xterm-256color"

ID_BYTES = 8

_CONTINUES_A_CHARACTER = range(0x80, 0xC0)
"""Bytes of UTF-8 that no character begins with."""


class Screen:
    """What was printed last, its bytes counted from the start."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.end = 0

    @property
    def start(self) -> int:
        """The first that is kept."""
        return self.end - len(self._kept)

    def append(self, data: bytes) -> None:
        self._kept += data
        self.end += len(data)
        excess = len(self._kept) - SCREEN_BYTES
        if excess > 0:
            while excess < len(self._kept) and self._kept[excess] in _CONTINUES_A_CHARACTER:
                excess += 1
            del self._kept[:excess]

    def after(self, place: int) -> bytes:
        """Some of what follows `place`, or of what is kept where that is gone."""
        begin = max(place - self.start, 0)
        return bytes(self._kept[begin : begin + READ_BYTES])


class _Viewer:
    """How far one viewer has read."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.news = asyncio.Event()


class Terminal:
    """One that was started; what its program started ends with it."""

    def __init__(
        self, terminal_id: str, request: StartTerminal, programs: UserPrograms, cwd: str
    ) -> None:
        """Starts the program. Raises `TerminalNotStarted`."""
        self.id = terminal_id
        self.request = request
        self.exit_code: int | None = None
        self._programs = programs
        self._size = (request.cols, request.rows)
        self._started_at = timestamp()
        self._screen = Screen()
        self._viewers: set[_Viewer] = set()
        self._typing = asyncio.Lock()
        self._is_read = False
        self._loop = asyncio.get_running_loop()
        self._master, self._slave = os.openpty()
        try:
            os.set_blocking(self._master, False)
            self.resize(request.cols, request.rows)
            programs.give_to_user(self._slave, request.session.user)
            self._group = programs.new_group(terminal_id)
            try:
                self._process = self._start(cwd)
            except (OSError, subprocess.SubprocessError):
                self._group.remove()
                raise
        except (OSError, subprocess.SubprocessError) as error:
            self._close()
            raise TerminalNotStarted(str(error).partition("] ")[2] or str(error)) from error
        self._read_on()

    def info(self) -> TerminalInfo:
        columns, rows = self._size
        return TerminalInfo(
            id=self.id,
            session=self.request.session.name,
            command=told(self.request.command, self.request.argv),
            pid=self._process.pid,
            cols=columns,
            rows=rows,
            viewers=len(self._viewers),
            start_time=self._started_at,
            exit_code=self.exit_code,
        )

    @property
    def ended(self) -> bool:
        return self.exit_code is not None

    async def run(self) -> None:
        """Returns when it has ended, and all that it started."""
        exit_code = await self._programs.wait(self._process)
        await self._group.close()
        with suppress(OSError):  # Its end, told as the error that it is to have nobody on it.
            while data := os.read(self._master, READ_BYTES):
                self._screen.append(data)
        self._loop.remove_reader(self._master)
        self._loop.remove_writer(self._master)
        self._close()
        self.exit_code = exit_code
        self._tell_news()

    def kill(self) -> None:
        self._group.kill_all()

    def resize(self, columns: int, rows: int) -> None:
        """Its programs are told so by SIGWINCH."""
        if self.ended:
            return
        self._size = (columns, rows)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    async def read(self) -> AsyncGenerator[bytes, None]:
        """What was printed lately, then what is printed, to the program's end.

        Where nobody keeps up, the program waits; who is slower than others misses some.
        """
        viewer = _Viewer(self._screen.start)
        self._viewers.add(viewer)
        try:
            while True:
                viewer.news.clear()
                if piece := self._screen.after(viewer.place):
                    viewer.place = max(viewer.place, self._screen.start) + len(piece)
                    self._read_on()
                    yield piece
                elif self.ended:
                    return
                else:
                    await viewer.news.wait()
        finally:
            self._viewers.discard(viewer)
            self._read_on()

    async def write(self, data: bytes) -> None:
        """Types; of two at a time one waits. Raises `TerminalInputRefused`."""
        async with self._typing:
            while data and not self.ended:
                try:
                    data = data[os.write(self._master, data) :]
                except BlockingIOError:
                    await self._has_room()
                except OSError:
                    return  # It has just ended.

    def _start(self, cwd: str) -> subprocess.Popen[bytes]:
        session = self.request.session
        env = self._programs.environment(
            {"TERM": TERM, **session.env, **self.request.env}, user=session.user
        )
        return self._programs.spawn(
            argv_of(self.request.command, self.request.argv, env.get("PATH", DEFAULT_PATH)),
            cwd=cwd,
            env=env,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            group=self._group,
            user=session.user,
            controlling_terminal=True,
        )

    def _readable(self) -> None:
        try:
            data = os.read(self._master, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._screen.append(data)
            self._tell_news()
        if not data or self._is_ahead:
            self._loop.remove_reader(self._master)
            self._is_read = False

    @property
    def _is_ahead(self) -> bool:
        """Of all who look at it; it need not wait for nobody."""
        end = self._screen.end
        return bool(self._viewers) and all(
            end - viewer.place > HIGH_WATER_BYTES for viewer in self._viewers
        )

    def _read_on(self) -> None:
        if not self._is_read and not self.ended and not self._is_ahead:
            self._loop.add_reader(self._master, self._readable)
            self._is_read = True

    async def _has_room(self) -> None:
        """Raises `TerminalInputRefused`."""
        room = asyncio.Event()
        self._loop.add_writer(self._master, room.set)
        try:
            async with asyncio.timeout(INPUT_TIMEOUT_S):
                await room.wait()
        except TimeoutError:
            raise TerminalInputRefused("the program does not read what is typed") from None
        finally:
            if not self.ended:
                self._loop.remove_writer(self._master)

    def _tell_news(self) -> None:
        for viewer in self._viewers:
            viewer.news.set()

    def _close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


class Terminals:
    """Those that run, and some that have ended."""

    def __init__(self, programs: UserPrograms, directory_of: Callable[[Session], str]) -> None:
        """`directory_of` says where a session is."""
        self._programs = programs
        self._directory_of = directory_of
        self._terminals: dict[str, Terminal] = {}
        self._tasks: dict[Terminal, asyncio.Task[None]] = {}

    def start(self, request: StartTerminal) -> Terminal:
        """Raises `InvalidRequest`, `TooManyTerminals`, `TerminalNotStarted`."""
        _check(request)
        if len(self._tasks) >= MAX_RUNNING:
            raise TooManyTerminals(f"the sandbox has {MAX_RUNNING} terminals already")
        cwd = str(Path(self._directory_of(request.session), request.cwd or ""))
        terminal = Terminal(f"term-{secrets.token_hex(ID_BYTES)}", request, self._programs, cwd)
        self._terminals[terminal.id] = terminal
        task = asyncio.create_task(terminal.run())
        self._tasks[terminal] = task
        task.add_done_callback(lambda _: self._has_ended(terminal))
        return terminal

    def find(self, terminal_id: str) -> Terminal:
        """Raises `TerminalNotFound`."""
        terminal = self._terminals.get(terminal_id)
        if terminal is None:
            raise TerminalNotFound(f"there is no terminal {terminal_id[:80]!r}")
        return terminal

    def infos(self) -> TerminalList:
        return TerminalList(terminals=[one.info() for one in self._terminals.values()])

    async def end(self, terminal_id: str) -> None:
        """Forgets it, too. Raises `TerminalNotFound`."""
        terminal = self.find(terminal_id)
        await self._end([terminal])
        self._terminals.pop(terminal_id, None)

    async def end_session(self, name: str) -> None:
        """Ends what was started in a session."""
        await self._end([one for one in self._tasks if one.request.session.name == name])

    async def close(self) -> None:
        await self._end(list(self._tasks))

    async def _end(self, terminals: list[Terminal]) -> None:
        tasks = [task for one in terminals if (task := self._tasks.get(one))]
        for terminal in terminals:
            if not terminal.ended:
                terminal.kill()
        if tasks:
            await asyncio.wait(tasks)

    def _has_ended(self, terminal: Terminal) -> None:
        del self._tasks[terminal]
        ended = [one for one in self._terminals.values() if one.ended]
        for oldest in ended[:-MAX_ENDED]:
            del self._terminals[oldest.id]


def _check(request: StartTerminal) -> None:
    """Raises `InvalidRequest`."""
    if request.command is not None and request.argv is not None:
        raise InvalidRequest("give command or argv, and not both")
    nothing = request.command is None and request.argv is None
    check(
        ExecRequest(
            command="true" if nothing else request.command,
            argv=request.argv,
            session=request.session,
            cwd=request.cwd,
            env=request.env,
        )
    )
