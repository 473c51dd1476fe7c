"""Looks through trees of files, and replaces text in them, as the sandbox's user.

It is a process, so that it can be ended.
"""

from __future__ import annotations

import re

import msgspec

from sandbox_runtime.as_user import Channel, serve
from sandbox_runtime.delegate_messages import (
    Done,
    FileOrder,
    Find,
    ListTree,
    Refused,
    Replace,
    Search,
)
from sandbox_runtime.file_answers import fault_of
from sandbox_runtime.file_replace import replace
from sandbox_runtime.file_tree import find, list_tree, search
from sandbox_runtime.protocol.errors import InvalidRequest, RuntimeFault


def main() -> None:
    serve(_work)


def _work(channel: Channel) -> None:
    order = channel.receive(msgspec.json.Decoder(FileOrder))
    if order is not None:
        channel.send(_answer(order))


def _answer(order: FileOrder) -> Done | Refused:
    try:
        return Done(answer=msgspec.Raw(msgspec.json.encode(_done(order))))
    except RuntimeFault as fault:
        return _refused(fault)
    except re.error as error:
        return _refused(InvalidRequest(f"text is no regular expression: {error}"))
    except OSError as error:
        return _refused(fault_of(error.errno or 0, error.strerror or str(error)))


def _done(order: FileOrder) -> msgspec.Struct:
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


def _received(path: str) -> str:
    return path.encode("latin-1").decode("utf-8", "surrogateescape")


def _refused(fault: RuntimeFault) -> Refused:
    return Refused(code=fault.code, message=fault.message, words="")
