"""Has git do one thing, as the sandbox's user: the delegate behind `git.py`."""

from __future__ import annotations

import msgspec

from sandbox_runtime.as_user import Channel, serve
from sandbox_runtime.delegate_messages import Clone, Command, Done, GitOrder, Refused
from sandbox_runtime.git_clone import clone
from sandbox_runtime.git_commands import carry_out
from sandbox_runtime.git_failures import MESSAGES
from sandbox_runtime.git_python import GitRefused, find_git

MAX_WORDS_CHARS = 64 * 1024
"""Of what git and the remote say; the last of it is told."""


def main() -> None:
    serve(_obey)


def _obey(channel: Channel) -> None:
    decoder: msgspec.json.Decoder[GitOrder] = msgspec.json.Decoder(GitOrder)
    order = channel.receive(decoder)
    if order is None:
        return
    try:
        find_git()
        match order:
            case Clone():
                answer: msgspec.Struct = clone(order, channel)
            case Command():
                answer = carry_out(order)
    except GitRefused as refusal:
        channel.send(
            Refused(
                code=refusal.code,
                message=MESSAGES[refusal.code],
                words=refusal.words[-MAX_WORDS_CHARS:],
            )
        )
    else:
        channel.send(Done(answer=msgspec.Raw(msgspec.json.encode(answer))))
