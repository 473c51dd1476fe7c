"""Starts the runtime: reads its settings, wires its parts, and ends with all that it started."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import structlog
import uvicorn

from sandbox_runtime.api.contexts import ContextRoutes
from sandbox_runtime.api.executions import ExecutionRoutes
from sandbox_runtime.api.files import FileRoutes
from sandbox_runtime.api.git import GitRoutes
from sandbox_runtime.api.processes import ProcessRoutes
from sandbox_runtime.api.status import StatusRoutes
from sandbox_runtime.api.terminals import TerminalRoutes
from sandbox_runtime.archives import check_in
from sandbox_runtime.contexts import CodeContexts
from sandbox_runtime.executions import Executions
from sandbox_runtime.files import Files
from sandbox_runtime.git import Checkouts, GitCommands
from sandbox_runtime.git_programs import GitPrograms
from sandbox_runtime.languages import Languages
from sandbox_runtime.process_waits import MAX_SEARCHES
from sandbox_runtime.processes import Processes
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.files import FilePlace
from sandbox_runtime.server import Api
from sandbox_runtime.sessions import Sessions
from sandbox_runtime.settings import Settings, SettingsError
from sandbox_runtime.terminals import Terminals
from sandbox_runtime.user_threads import UserThreads

BACKLOG = 128

KEEP_ALIVE_S = 30
"""For a caller's idle connection."""

GRACEFUL_SHUTDOWN_S = 1
"""For readers to take the last events, when the runtime is told to end."""

MAX_MESSAGE_BYTES = 1024 * 1024
"""Of what is typed at once."""

BOOT_ID_BYTES = 16

_PR_SET_DUMPABLE = 4


def main() -> int:
    """The exit code."""
    _log_as_json_lines()
    log = structlog.get_logger()
    try:
        settings = Settings.from_env()
        _protect_ourselves()
        _make_directories(settings)
        _check_cgroup(settings)
        token = settings.token_file.read_text().strip()
        listener = _listen(settings.socket)
    except (SettingsError, OSError) as error:
        log.error("runtime cannot start", reason=str(error))
        return 2
    asyncio.run(_serve(settings, token, listener))
    return 0


async def _serve(settings: Settings, token: str, listener: socket.socket) -> None:
    gc.freeze()  # What is there now stays: no collection need look at it again.
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    programs = UserPrograms(settings)
    sessions = Sessions(settings, programs)
    languages = Languages(settings, programs)
    contexts = CodeContexts(languages, programs, idle_s=settings.kernel_idle_s)
    processes = Processes(programs, sessions.directory_of)
    terminals = Terminals(programs, sessions.directory_of)
    searches = ThreadPoolExecutor(MAX_SEARCHES, "search")
    git = GitPrograms(settings, programs)
    threads = UserThreads(settings, programs)
    files = Files(settings, programs, sessions, threads)
    executions = Executions(
        commands=sessions,
        code=contexts,
        checkouts=Checkouts(settings, programs, git, sessions.directory_of),
        killed_by_limits=programs.killed_by_limits,
    )

    async def unpack_archive(archive: AsyncIterator[bytes], path: str) -> None:
        check_in(path, settings.workspace)
        await files.unpack(FilePlace(path=path), archive)

    boot_id = secrets.token_hex(BOOT_ID_BYTES)
    api = Api(
        token=token,
        routes=[
            *ExecutionRoutes(
                boot_id=boot_id, executions=executions, unpack=unpack_archive
            ).routes(),
            *StatusRoutes(
                boot_id=boot_id,
                executions=executions,
                sessions=sessions,
                processes=processes,
                terminals=terminals,
                contexts=contexts,
            ).routes(),
            *ContextRoutes(contexts, languages).routes(),
            *ProcessRoutes(processes, searches).routes(),
            *TerminalRoutes(terminals).routes(),
            *GitRoutes(
                executions=executions,
                commands=GitCommands(settings, git, sessions.directory_of),
            ).routes(),
            *FileRoutes(files).routes(),
        ],
    )
    server = _Server(
        uvicorn.Config(
            api,
            http="httptools",
            ws=cast(type[asyncio.Protocol], _websocket),
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    serving.add_done_callback(lambda _: told_to_end.set())  # A server that failed is an end, too.
    await told_to_end.wait()
    await executions.close()
    await asyncio.gather(
        sessions.close(),
        processes.close(),
        terminals.close(),
        contexts.close(),
        languages.close(),
    )
    server.should_exit = True
    await serving
    threads.close()
    await programs.close()
    searches.shutdown(cancel_futures=True)
    settings.socket.unlink(missing_ok=True)


def _websocket(**options: Any) -> asyncio.Protocol:
    """What speaks it takes 1 MB, which sandboxes without terminals do without."""
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    return WSProtocol(**options)


class _Server(uvicorn.Server):
    """Leaves signals to us: at SIGTERM, executions have to end before the connections do."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _protect_ourselves() -> None:
    """The user's programs must neither read our memory nor find our files open to them."""
    os.umask(0o077)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _make_directories(settings: Settings) -> None:
    settings.scratch.mkdir(parents=True, exist_ok=True)
    settings.scratch.chmod(0o711)  # Who is told a name in it may open it, if it is his.
    if not settings.home.exists():
        mode = 0o755 if settings.users == 1 else 0o775  # Its users share it.
        settings.home.mkdir(mode=mode)
        settings.home.chmod(mode)
        if settings.uid != os.getuid():
            os.chown(settings.home, settings.uid, settings.gid)


def _check_cgroup(settings: Settings) -> None:
    if settings.cgroup is not None and not (settings.cgroup / "cgroup.kill").exists():
        raise SettingsError(f"{settings.cgroup} is not a cgroup2 directory with cgroup.kill")


def _listen(path: Path) -> socket.socket:
    """A listening socket that only its owner may connect to."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def _log_as_json_lines() -> None:
    """To stderr. Uvicorn's own log says nothing that ours does not."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
