"""Reports of a delegate are hostile input: bounded, and of a known type."""

from __future__ import annotations

import asyncio
import socket
import subprocess

import pytest

from sandbox_runtime.delegate_messages import (
    LENGTH,
    MAX_REPORT_BYTES,
    GitReport,
    KernelReport,
    Refused,
    framed,
)
from sandbox_runtime.delegates import Delegate, DelegateLost

NESTED = b'{"type":"result","timestamp":"","json":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def reported(data: bytes) -> object:
    """The first report of a delegate that sends `data` and ends."""

    async def read(process: subprocess.Popen[bytes]) -> object:
        reader = asyncio.StreamReader(limit=1024)
        reader.feed_data(data)
        reader.feed_eof()
        ended = asyncio.ensure_future(asyncio.to_thread(process.wait))
        _, writer = await asyncio.open_unix_connection(sock=_closed_socket())
        delegate = Delegate(process, ended, reader, writer, GitReport | KernelReport)
        try:
            return await delegate.report()
        finally:
            await delegate.close()

    return asyncio.run(read(subprocess.Popen(["true"])))


def _closed_socket() -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


def test_a_report_is_decoded() -> None:
    refused = Refused(code="c", message="m", words="")

    assert reported(framed(refused)) == refused


def test_a_report_longer_than_what_is_read_ahead_is_decoded() -> None:
    refused = Refused(code="c", message="m" * 100_000, words="")

    assert reported(framed(refused)) == refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00",
        LENGTH.pack(10) + b"{}",
        LENGTH.pack(2) + b"{}",
        LENGTH.pack(3) + b"\xff\xfe\xfd",
        LENGTH.pack(MAX_REPORT_BYTES + 1),
        LENGTH.pack(32) + b'{"type":"cloned","commit":[1]}  ',
        LENGTH.pack(200_000) + b"[" * 200_000,
        LENGTH.pack(len(NESTED)) + NESTED,
    ],
)
def test_what_is_no_report_ends_the_delegate(data: bytes) -> None:
    with pytest.raises(DelegateLost):
        reported(data)
