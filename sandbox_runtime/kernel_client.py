"""Runs cells in one kernel, on the Jupyter protocol: the delegate behind `kernels.py`.

The kernel runs what the user wrote, so anything may come from it: messages of other cells, with
wrong signatures, of any shape. What is not understood is dropped.
"""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any, NamedTuple

import msgspec
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.session import DELIM

from sandbox_runtime.as_user import Channel, serve
from sandbox_runtime.cell_events import shortened
from sandbox_runtime.delegate_messages import (
    Answer,
    CellEnded,
    CellStarted,
    Connect,
    Execute,
    InputRequested,
    Interrupt,
    KernelEnded,
    KernelOrder,
    Printed,
    Ready,
)
from sandbox_runtime.protocol.events import CellException, Stream
from sandbox_runtime.results import shown

PRINTED_CHARS = 32 * 1024
"""One report of output."""

QUEUED_MESSAGES = 8

RECONNECT_MS = 10
"""How often a kernel that is still starting is looked for."""

ASK_AGAIN_S = 0.2
"""A kernel that has not heard our subscription yet answers where we do not hear it."""

IDLE_WAIT_S = 2.0
"""For "idle" after a cell's reply, while nothing else comes: user code can swallow it."""

QUESTION_AFTER_S = 0.02
"""Of silence: what was printed before a question has come by then."""

LAST_WORDS_S = 0.1
"""Of silence, after which a kernel that ended has nothing more to be read."""

MAX_JSON_LEVELS = 100

MESSAGES_AT_ONCE = 100
"""Before orders are looked at again."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")


def main() -> None:
    serve(_Cells.serve)


class _Header(msgspec.Struct):
    msg_id: str = ""
    msg_type: str = ""


_header_decoder = msgspec.json.Decoder(_Header)


class _Message(NamedTuple):
    kind: str
    cause: str | None
    """The id of the message that asked for it; no cell's where there is none."""
    body: bytes

    def content(self) -> dict[str, Any]:
        """Empty where it is not what it should be."""
        try:
            # Python's own JSON: kernels write NaN and lone surrogates.
            content = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


class _Cells:
    """One kernel's cells, one after another."""

    def __init__(self, channel: Channel, client: BlockingKernelClient) -> None:
        self._channel = channel
        self._session = client.session
        self._client = client
        self._shell: zmq.Socket[bytes] = client.shell_channel.socket
        self._iopub: zmq.Socket[bytes] = client.iopub_channel.socket
        self._stdin: zmq.Socket[bytes] = client.stdin_channel.socket
        self._control: zmq.Socket[bytes] = client.control_channel.socket
        self._poller = zmq.Poller()
        for source in (channel.fileno(), self._iopub, self._shell, self._stdin):
            self._poller.register(source, zmq.POLLIN)
        self._orders = msgspec.json.Decoder(KernelOrder)
        self._cell_id: str | None = None
        """The message that asked for the cell that runs; None while none does."""
        self._reply: dict[str, Any] | None = None
        self._idle = False
        self._raised = False
        self._is_plain = True
        """A traceback is told without its colours."""

    @classmethod
    def serve(cls, channel: Channel) -> None:
        order = channel.receive(msgspec.json.Decoder(Connect))
        if order is None:
            return
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.rcvhwm = QUEUED_MESSAGES if order.bounded else 0
        context.reconnect_ivl = RECONNECT_MS
        client = BlockingKernelClient(context=context)
        client.load_connection_file(order.connection_file)
        cells = cls(channel, client)
        cells._wait_for_kernel()
        channel.send(Ready())
        cells._serve_orders()

    def _wait_for_kernel(self) -> None:
        """Returns when the kernel has answered and what it publishes is heard."""
        while True:
            asked = self._client.kernel_info()
            until = time.monotonic() + ASK_AGAIN_S
            answered = heard = False
            while (left_s := until - time.monotonic()) > 0 and not (answered and heard):
                ready = self._poll(left_s)
                if self._channel.fileno() in ready:
                    raise ConnectionError("ordered to end while the kernel started")
                answered |= self._shell in ready and self._answers(self._shell, asked)
                heard |= self._iopub in ready and self._answers(self._iopub, asked)
            if answered and heard:
                return

    def _answers(self, source: zmq.Socket[bytes], asked: str) -> bool:
        message = self._receive(source)
        return message is not None and message.cause == asked

    def _serve_orders(self) -> None:
        while True:
            # After its reply a cell has only so long to say that it is idle.
            ready = self._poll(IDLE_WAIT_S if self._reply else None)
            if not ready:
                self._idle = True
            if self._channel.fileno() in ready and not self._obey():
                return
            if self._iopub in ready:
                self._take_published(MESSAGES_AT_ONCE)
            if self._stdin in ready:
                self._take_question()
            if self._shell in ready:
                self._take_reply()
            self._end_cell_if_done()

    def _obey(self) -> bool:
        """Whether to go on."""
        match self._channel.receive(self._orders):
            case Execute() as cell:
                self._reply, self._idle, self._raised = None, False, False
                self._is_plain = not cell.ansi
                self._cell_id = self._execute(cell)
                return True
            case Interrupt():
                self._session.send(self._control, "interrupt_request", content={})
                return True
            case Answer(value=value):
                self._client.input(value)
                return True
            case KernelEnded():
                while self._iopub in self._poll(LAST_WORDS_S):
                    self._take_published(MESSAGES_AT_ONCE)
                return False
            case _:
                return False

    def _execute(self, cell: Execute) -> str:
        """The message that asked for the cell."""
        message = self._session.msg(
            "execute_request",
            {
                "code": cell.code,
                "silent": cell.silent,
                "store_history": not cell.silent,
                "user_expressions": {},
                "allow_stdin": cell.allow_input,
                "stop_on_error": False,
            },
            metadata={"variables": cell.variables, "cell_variables": cell.cell_variables},
        )
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def _poll(self, timeout_s: float | None) -> set[Any]:
        timeout_ms = None if timeout_s is None else math.ceil(timeout_s * 1000)
        return {source for source, _ in self._poller.poll(timeout_ms)}

    def _receive(self, source: zmq.Socket[bytes]) -> _Message | None:
        """The next message; None where there is none, or what there is is no message.

        Its signature is not looked at: nobody but the user's code can get at the socket, and it
        knows the key.
        """
        try:
            frames = source.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        try:
            start = frames.index(DELIM)
            header, parent, _, content = frames[start + 2 : start + 6]
            kind = _header_decoder.decode(header).msg_type
            return _Message(kind, _header_decoder.decode(parent).msg_id, content)
        except (ValueError, msgspec.DecodeError):
            return _Message("", "", b"")

    def _take_published(self, limit: int) -> None:
        for _ in range(limit):
            message = self._receive(self._iopub)
            if message is None:
                return
            if message.cause == self._cell_id:
                try:
                    self._tell(message.kind, message.content())
                except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
                    pass  # Made by hand, and wrongly.

    def _tell(self, kind: str, content: dict[str, Any]) -> None:
        match kind:
            case "stream":
                stream = Stream(content["name"])
                text = _clean(content["text"])
                for start in range(0, len(text), PRINTED_CHARS):
                    piece = text[start : start + PRINTED_CHARS]
                    self._channel.send(Printed(stream=stream, data=piece))
            case "execute_result":
                self._channel.send(shown(bundle_from(content["data"]), is_main=True))
            case "display_data" | "update_display_data":
                told = shown(
                    bundle_from(content["data"]),
                    is_main=False,
                    display_id=_display_id(content),
                    update=kind == "update_display_data",
                )
                self._channel.send(told)
            case "error":
                self._tell_exception(content)
            case "execute_input":
                self._channel.send(CellStarted())
            case "status":
                self._idle = self._idle or content["execution_state"] == "idle"

    def _tell_exception(self, content: dict[str, Any]) -> None:
        if self._raised:
            return
        traceback = "\n".join(content["traceback"])
        exception = CellException(
            timestamp="",
            name=_clean(content["ename"]),
            value=_clean(content["evalue"]),
            traceback=_clean(_ANSI.sub("", traceback) if self._is_plain else traceback),
        )
        self._channel.send(shortened(exception))
        self._raised = True

    def _take_question(self) -> None:
        message = self._receive(self._stdin)
        if message is None or message.cause != self._cell_id:
            return
        # On another socket, so what was printed before it may come after it.
        for _ in range(QUEUED_MESSAGES):
            if self._iopub not in self._poll(QUESTION_AFTER_S):
                break
            self._take_published(MESSAGES_AT_ONCE)
        asked = message.content()
        prompt = asked.get("prompt")
        self._channel.send(
            InputRequested(
                prompt=_clean(prompt) if isinstance(prompt, str) else "",
                password=asked.get("password") is True,
            )
        )

    def _take_reply(self) -> None:
        message = self._receive(self._shell)
        if message is not None and message.cause == self._cell_id:
            self._reply = message.content()

    def _end_cell_if_done(self) -> None:
        if self._reply is None or not self._idle:
            return
        reply = self._reply
        failed = self._raised or reply.get("status") != "ok"
        if failed and not self._raised:
            # An error that is told in the reply alone, as of a magic that the kernel refuses.
            unknown = {"ename": "Error", "evalue": "the kernel refused the cell", "traceback": []}
            try:
                self._tell_exception({**unknown, **reply})
            except (TypeError, AttributeError):
                self._tell_exception(unknown)
        count = reply.get("execution_count")
        self._channel.send(
            CellEnded(
                failed=failed,
                execution_count=count if isinstance(count, int) and 0 < count < 2**53 else None,
                quits=_quits(reply.get("payload")),
            )
        )
        self._cell_id = self._reply = None


def _quits(payload: object) -> bool:
    """Whether the user asked the kernel to end. Other payloads, as of a pager, hold any text."""
    return isinstance(payload, list) and any(
        isinstance(one, dict) and one.get("source") == "ask_exit" for one in payload
    )


def bundle_from(data: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """What a kernel shows, as JSON that any reader takes, by MIME type; what is not, is named."""
    bundle: dict[str, Any] = {}
    notes = []
    for mime, value in data.items():
        if isinstance(value, list) and not mime.endswith("json"):
            # It may come as lines.
            value = "".join(value) if all(isinstance(line, str) for line in value) else value
        if isinstance(value, str):
            bundle[_clean(mime)] = _clean(value)
        elif _is_plain(value):
            bundle[_clean(mime)] = value
        else:
            notes.append(f"[{_clean(mime)} is left out: not JSON that every reader takes]")
    if notes:
        bundle["text/plain"] = "\n".join(
            [bundle["text/plain"], *notes] if "text/plain" in bundle else notes
        )
    return {mime: msgspec.Raw(msgspec.json.encode(value)) for mime, value in bundle.items()}


def _display_id(content: dict[str, Any]) -> str | None:
    transient = content.get("transient")
    display_id = transient.get("display_id") if isinstance(transient, dict) else None
    return None if display_id is None else _clean(display_id)


def _is_plain(value: Any, levels: int = MAX_JSON_LEVELS) -> bool:
    """Whether any reader takes `value` as JSON: not nested without end, and all of it UTF-8."""
    if isinstance(value, dict):
        return levels > 0 and all(_is_plain(part, levels - 1) for part in (*value, *value.values()))
    if isinstance(value, list):
        return levels > 0 and all(_is_plain(part, levels - 1) for part in value)
    if isinstance(value, str):
        return _clean(value) == value
    return not isinstance(value, int) or abs(value) < 2**63


def _clean(value: object) -> str:
    """Text without lone surrogates, which JSON from Python can hold and UTF-8 cannot."""
    if isinstance(value, list):
        return "".join(_clean(line) for line in value)
    if not isinstance(value, str):
        raise TypeError("not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        return str(value.encode("utf-16", "surrogatepass"), "utf-16", "replace")
    return value
