"""Starts delegates, programs of ours that act as the sandbox's user, and speaks with them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import msgspec

from sandbox_runtime.delegate_messages import LENGTH, MAX_REPORT_BYTES, Identity, framed
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.settings import Settings

READ_AHEAD_BYTES = 64 * 1024
"""Reports that are held unread; past twice of it the delegate waits."""

SAFE_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""A delegate's while it is root: the user's would say what root imports and runs."""

_PACKAGES = str(Path(__file__).resolve().parent.parent)


class DelegateLost(Exception):
    """The delegate ended, or says what no delegate of ours would."""


class Delegate:
    """One delegate, from its start to its end. Lives on one event loop."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reaping: asyncio.Task[int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reports: UnionType,
    ) -> None:
        self._process = process
        self._reaping = reaping
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(reports)

    async def order(self, order: msgspec.Struct) -> None:
        """Sends an order. Where the delegate is gone, `report` will say so."""
        try:
            self._writer.write(framed(order))
            await self._writer.drain()
        except ConnectionError:
            pass

    async def report(self) -> Any:
        """The next report, one of the types given at the start. Raises `DelegateLost`."""
        try:
            (size,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if size > MAX_REPORT_BYTES:
                raise DelegateLost(f"a report of {size} bytes")
            return self._decoder.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise DelegateLost("its connection ended") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise DelegateLost(f"not a report: {error}") from error

    async def close(self) -> None:
        """Ends it, if it has not ended."""
        self._writer.close()
        if self._process.returncode is None and not self._reaping.done():
            self._process.kill()
        await self._reaping


async def start(
    module: str,
    *,
    programs: UserPrograms,
    settings: Settings,
    env: Mapping[str, str],
    group: JobGroup,
    reports: UnionType,
    user: int = 0,
) -> Delegate:
    """Starts `module`, whose `main` becomes the user with the environment `env`.

    Raises `OSError` where no process can be started.
    """
    ours, theirs = socket.socketpair()
    try:
        process = programs.spawn(
            _argv(module, theirs.fileno()),
            cwd="/",
            env=SAFE_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            group=group,
            as_user=False,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    reaping = asyncio.ensure_future(programs.wait(process))
    reader, writer = await asyncio.open_connection(sock=ours, limit=READ_AHEAD_BYTES)
    delegate = Delegate(process, reaping, reader, writer, reports)
    await delegate.order(Identity(uid=programs.uid_of(user), gid=settings.gid, env=dict(env)))
    return delegate


def _argv(module: str, descriptor: int) -> list[str]:
    # Isolated, Python looks at neither PYTHONPATH nor the directory that it is started in, so it
    # is told where this package lies; in the image it would find it, from a checkout it would not.
    program = f"import sys; sys.path.append({_PACKAGES!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-B", "-c", program, str(descriptor)]
