"""Does to trees of files, as the sandbox's user, what takes long.

It is a process, so that it can be ended.
"""

from __future__ import annotations

import re
import select
import time
from pathlib import Path

import msgspec

from sandbox_runtime.as_user import Channel, serve
from sandbox_runtime.delegate_messages import (
    Changed,
    Done,
    FileOrder,
    Find,
    ListTree,
    Merge,
    Nothing,
    Refused,
    Replace,
    Search,
    Version,
    WatchBegan,
    WatchFiles,
)
from sandbox_runtime.file_answers import fault_of
from sandbox_runtime.file_merge import merge
from sandbox_runtime.file_replace import replace
from sandbox_runtime.file_tree import find, list_tree, search
from sandbox_runtime.file_watch import Watch, version
from sandbox_runtime.protocol.errors import InvalidRequest, RuntimeFault

GATHER_S = 0.05
"""What happens to a file within it is told once."""

MAX_TOLD = 1000
"""Changes in one report."""


def main() -> None:
    serve(_work)


def _work(channel: Channel) -> None:
    order = channel.receive(msgspec.json.Decoder(FileOrder))
    if order is not None and (last := _answer(order, channel)) is not None:
        channel.send(last)


def _answer(order: FileOrder, channel: Channel) -> Done | Refused | None:
    """The last report; None where the runtime wants none any more."""
    try:
        if isinstance(order, WatchFiles):
            _watch(order, channel)
            return None
        return Done(answer=msgspec.Raw(msgspec.json.encode(_done(order))))
    except RuntimeFault as fault:
        return _refused(fault)
    except re.error as error:
        return _refused(InvalidRequest(f"text is no regular expression: {error}"))
    except OSError as error:
        return _refused(fault_of(error.errno or 0, error.strerror or str(error)))


def _watch(order: WatchFiles, channel: Channel) -> None:
    """Until the runtime lets go of us. Raises where there is nothing more to watch."""
    watch = Watch(_received(order.path), order.order)
    channel.send(WatchBegan())
    waiting = select.poll()
    waiting.register(watch, select.POLLIN)
    waiting.register(channel, select.POLLIN)
    while channel.fileno() not in dict(waiting.poll()):
        time.sleep(GATHER_S)
        changes = watch.take()
        if changes is None:
            channel.send(Changed(changes=None))
            waiting.register(watch, select.POLLIN)  # It began anew.
        for first in range(0, len(changes or []), MAX_TOLD):
            channel.send(Changed(changes=(changes or [])[first : first + MAX_TOLD]))


def _done(order: Find | Search | Replace | ListTree | Version | Merge) -> msgspec.Struct:
    path = _received(order.path)
    match order:
        case Find(order=wanted):
            return find(path, wanted)
        case Search(order=wanted):
            return search(path, wanted)
        case Replace(order=wanted):
            return replace(path, wanted)
        case ListTree(order=wanted, after=after):
            return list_tree(path, wanted, after=_received(after))
        case Version(order=wanted):
            return version(path, wanted)
        case Merge(staging=staging):
            merge(Path(path, staging), Path(path))
            return Nothing()


def _received(path: str) -> str:
    return path.encode("latin-1").decode("utf-8", "surrogateescape")


def _refused(fault: RuntimeFault) -> Refused:
    return Refused(code=fault.code, message=fault.message, words="")
