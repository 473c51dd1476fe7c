"""The event streams: appended to by workers, read and followed by the web.

The stream is the truth, pub/sub the wake-up.

    cf:job:<id>:events   stream    id `<attempt>-<seq>`, field t the event's type, e its JSON
    cf:events:<id>       channel   `<attempt>-<seq> <type> <JSON>` of each event as it is added

Those of sandboxes have the same form; their keys are in `store.py`.

redis-py drops published messages in silence on a reconnect and for a slow reader. So a follower
reads the stream whenever it is not sure: at first, on a hole in the numbers, after a reconnect,
after its queue ran over, and at each heartbeat.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec
import redis
import structlog

from sandbox_runtime.protocol.events import Complete, Error, conclusion_of
from workers.contract.connection import (
    RedisClient,
    RedisConnection,
    load_script,
    store_errors,
)
from workers.contract.errors import EventsExpired, JobNotFound, SandboxNotFound
from workers.contract.events import (
    BEFORE_ALL,
    EventId,
    JobEvent,
    PublishedEvent,
    encode_event,
    type_of,
)
from workers.contract.jobs import JobError, StepRecord
from workers.contract.store import sandbox_events_key

PAGE_EVENTS = 200
"""Events read from the stream at a time; an event holds up to 64 KiB of output."""

QUEUE_LIMIT_BYTES = 1024 * 1024
"""What a follower that lags may have waiting; past it the stream is read again."""

HUB_POLL_S = 1.0

RECONNECT_S = 0.2

log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What became of an append."""

    OK = "ok"
    MISSING = "missing"
    """The record is gone."""
    COMPLETED = "completed"
    """The job had ended: nothing more is written, ever."""
    FENCED = "fenced"
    """Somebody else holds the job now."""
    MOVED = "moved"
    """The job is not in the status that was expected."""
    HOLE = "hole"
    """Redis lacks events before these: it forgot them. `last_n` is the last that it has."""


class Appended(NamedTuple):
    outcome: Outcome
    last_n: int = 0


class Writer(NamedTuple):
    """Who appends: the holder of a claim."""

    job_id: str
    line: str | None
    sandbox_id: str | None
    fence: int | None
    """None closes a job that nobody holds, taking the right to write from whoever did."""


class NumberedEvent(NamedTuple):
    """An event with its place in the execution that it belongs to, counted from 1."""

    n: int
    event: JobEvent


class EventStream:
    """Appends to and reads the streams. Safe to share between threads."""

    def __init__(self, client: RedisClient, *, retention_s: int, now: Callable[[], str]) -> None:
        self._client = client
        self._retention_s = retention_s
        self._now = now
        self._append = load_script(client, "append")

    def append(
        self,
        writer: Writer,
        execution: str,
        events: Sequence[NumberedEvent],
        *,
        steps: Sequence[StepRecord] | None = None,
        expect: str = "",
    ) -> Appended:
        """Adds what the stream does not have yet; a terminal event completes the job.

        Calling it again with the same events adds nothing. Raises `StoreUnavailable`.
        """
        ending = ("", "", "", "")
        last = events[-1].event if events else None
        if isinstance(last, Complete | Error):
            ending = (*_ending_fields(last), self._now())
        arguments: list[str | bytes | int] = [
            "" if writer.fence is None else writer.fence,
            expect,
            execution,
            channel_of(writer.job_id),
            self._retention_s,
            writer.job_id,
            "" if steps is None else msgspec.json.encode(steps),
            *ending,
        ]
        for n, event in events:
            arguments += (n, type_of(event), encode_event(writer.job_id, event))
        keys = [
            f"cf:job:{writer.job_id}",
            events_key(writer.job_id),
            "cf:sent-jobs",
            f"cf:line:{writer.line or writer.job_id}",
            f"cf:sandbox:{writer.sandbox_id}:jobs",
        ]
        with store_errors():
            answer = self._append(keys, arguments)
        return _appended(answer)

    def read(
        self, job_id: str, after: EventId = BEFORE_ALL, limit: int = PAGE_EVENTS
    ) -> list[PublishedEvent]:
        """Up to `limit` events that follow `after`, oldest first."""
        return _read(self._client, events_key(job_id), after, limit)

    def last(self, job_id: str) -> PublishedEvent | None:
        """The newest event; None where none is kept."""
        return _last(self._client, events_key(job_id))

    def is_over(self, job_id: str) -> bool:
        """Whether its terminal event is there, or was. Raises `JobNotFound`."""
        with store_errors():
            status = self._client.hget(f"cf:job:{job_id}", "status")
        if status is None:
            raise JobNotFound(f"No job {job_id}.")
        return bytes(status) == b"completed"


class SandboxEventStream:
    """Reads what happened to sandboxes; `SandboxStore` writes it with each change."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def read(
        self, sandbox_id: str, after: EventId = BEFORE_ALL, limit: int = PAGE_EVENTS
    ) -> list[PublishedEvent]:
        """Up to `limit` events that follow `after`, oldest first."""
        return _read(self._client, sandbox_events_key(sandbox_id), after, limit)

    def last(self, sandbox_id: str) -> PublishedEvent | None:
        """The newest event; None where none is kept."""
        return _last(self._client, sandbox_events_key(sandbox_id))

    def is_over(self, sandbox_id: str) -> bool:
        """Whether its terminal event is there, or was. Raises `SandboxNotFound`."""
        with store_errors():
            state = self._client.hget(f"cf:sandbox:{sandbox_id}", "state")
        if state is None:
            raise SandboxNotFound(f"No sandbox {sandbox_id}.")
        return bytes(state) in (b"removed", b"failed")


class Events(Protocol):
    """Streams that can be followed: jobs', and sandboxes'."""

    def read(
        self, of: str, after: EventId = BEFORE_ALL, limit: int = PAGE_EVENTS, /
    ) -> list[PublishedEvent]: ...

    def last(self, of: str, /) -> PublishedEvent | None: ...

    def is_over(self, of: str, /) -> bool: ...


class Subscription:
    """One reader's share of what is published: a bounded queue, filled by the hub."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.sent = False
        """Redis was asked for it by the time that `Hub.subscribe` returned."""
        self.confirmed = threading.Event()
        self._ready = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._missed = False

    def put(self, message: bytes) -> None:
        with self._ready:
            if self._waiting_bytes + len(message) > QUEUE_LIMIT_BYTES:
                self._forget()
            else:
                self._waiting.append(message)
                self._waiting_bytes += len(message)
            self._ready.notify()

    def miss(self) -> None:
        """Something may have been published that this reader was not given."""
        with self._ready:
            self._forget()
            self._ready.notify()

    def take(self, timeout_s: float) -> list[bytes] | None:
        """What came in; empty after `timeout_s`; None where something was missed."""
        with self._ready:
            if not self._waiting and not self._missed:
                self._ready.wait(timeout_s)
            if self._missed:
                self._missed = False
                return None
            messages = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            return messages

    def _forget(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
        self._missed = True


class Hub:
    """One pub/sub connection for all readers of a process.

    A lost connection is told to every reader (`Subscription.miss`) before there is a new one.
    """

    def __init__(self, client: RedisClient) -> None:
        pool = client.connection_pool
        self._make_connection: Callable[[], RedisConnection] = lambda: pool.connection_class(
            **pool.connection_kwargs
        )
        self._lock = threading.Lock()
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._dropped: set[str] = set()
        """Channels that nobody reads any more, and Redis was not told of yet."""
        # Not redis-py's PubSub: that one connects anew without a word, and messages are missed.
        self._connection: RedisConnection | None = None
        self._wake = threading.Event()
        self._stopped = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="hub", daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def subscribe(self, channel: str) -> Subscription:
        """Returns at once; `confirmed` is set when Redis has said that the subscription stands."""
        subscription = Subscription(channel)
        with self._lock:
            readers = self._subscriptions.setdefault(channel, set())
            first = not readers
            readers.add(subscription)
            if first:
                self._dropped.discard(channel)
                subscription.sent = self._send(("SUBSCRIBE", channel))
            elif any(reader.confirmed.is_set() for reader in readers):
                subscription.sent = True
                subscription.confirmed.set()
        self._wake.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            readers = self._subscriptions.get(subscription.channel, set())
            readers.discard(subscription)
            if not readers:
                self._subscriptions.pop(subscription.channel, None)
                # Redis is told with the next that it is told: each message costs as much as this.
                self._dropped.add(subscription.channel)

    def _send(self, *commands: tuple[str, ...]) -> bool:
        """With what else Redis is to be told. The lock is held."""
        if self._connection is None:
            return False  # `_connect` subscribes to all that is asked for.
        if self._dropped:
            commands = (("UNSUBSCRIBE", *self._dropped), *commands)
            self._dropped.clear()
        try:
            packed = self._connection.pack_commands(commands)
            self._connection.send_packed_command(packed, check_health=False)
        except (redis.exceptions.RedisError, OSError):
            return False  # The reading thread meets the same error and connects anew.
        return True

    def _run(self) -> None:
        while not self._stopped:
            if not self._subscriptions:
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                self._listen(self._connect())
            except (redis.exceptions.RedisError, OSError, ValueError) as error:
                log.warning("pub/sub connection lost", error=str(error))
                self._disconnect()
                time.sleep(RECONNECT_S)
        self._disconnect()

    def _connect(self) -> RedisConnection:
        """The standing connection, or a new one that subscribes to all that is asked for."""
        if self._connection is None:
            connection = self._make_connection()
            connection.connect()
            with self._lock:
                for channel in self._subscriptions:
                    connection.send_command("SUBSCRIBE", channel, check_health=False)
                self._dropped.clear()
                self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.disconnect()
                self._connection = None
            for readers in self._subscriptions.values():
                for reader in readers:
                    reader.miss()
                    # So that it reads once more when the new subscription stands, also where the
                    # lost one was never confirmed.
                    reader.confirmed.set()

    def _listen(self, connection: RedisConnection) -> None:
        while self._subscriptions and not self._stopped:
            try:
                answer = connection.read_response(
                    timeout=HUB_POLL_S, disconnect_on_error=False, push_request=True
                )
            except redis.exceptions.TimeoutError:
                self._tell_of_dropped()
                continue
            kind, channel, content = answer
            readers = tuple(self._subscriptions.get(channel.decode(), ()))
            if not readers and kind == b"message":
                self._tell_of_dropped()
            for reader in readers:
                if kind == b"message":
                    reader.put(content)
                elif kind == b"subscribe":
                    if reader.confirmed.is_set():
                        # Anew, after a lost connection: what came between was told to nobody.
                        reader.miss()
                    reader.confirmed.set()
        self._tell_of_dropped()

    def _tell_of_dropped(self) -> None:
        with self._lock:
            if self._dropped:
                self._send()


def follow(
    stream: Events,
    subscription: Subscription,
    of: str,
    *,
    after: EventId = BEFORE_ALL,
    heartbeat_s: float,
    is_new: bool = False,
    confirm_s: float = 1.0,
) -> Iterator[PublishedEvent | None]:
    """Events of a job or a sandbox after `after`, each once, in order, with the terminal one.

    `is_new`: the subscription was sent before the job was submitted, so there is nothing in the
    stream that it does not tell. Yields None after each `heartbeat_s` without an event.

    Who has seen more than Redis kept, it having fallen back by more than could be told again, is
    given the terminal event all the same, whatever its number.

    Raises `EventsExpired` where all has ended and its events are no longer kept,
    `JobNotFound` or `SandboxNotFound`, `StoreUnavailable`.
    """
    # Subscribe before the first read: what comes between is announced.
    if not is_new:
        subscription.confirmed.wait(confirm_s)
    last = after
    read_again = not is_new
    while True:
        if read_again:
            page = stream.read(of, last)
            for event in page:
                last = event.id
                yield event
                if event.is_terminal:
                    return
            read_again = len(page) == PAGE_EVENTS
            if not page and stream.is_over(of):
                # The end came between the two looks, or the stream is gone. It raises where all
                # is gone: a Redis that was emptied tells nobody, and no reader is to wait for ever.
                if not stream.read(of, last, 1):
                    yield _end_before(stream, of, last)
                    return
                read_again = True
            if read_again:
                continue
        messages = subscription.take(heartbeat_s)
        if not messages:
            read_again = True
            if messages is not None:
                yield None
            continue
        for message in messages:
            event = _published(message)
            if event.id <= last and not event.is_terminal:
                continue
            if event.id > last and not _follows(event.id, last):
                read_again = True
                break
            last = event.id
            yield event
            if event.is_terminal:
                return


def _end_before(stream: Events, of: str, last: EventId) -> PublishedEvent:
    """The terminal event of a stream that ends before `last`. Raises `EventsExpired`."""
    end = stream.last(of)
    if end is None or end.id >= last:
        raise EventsExpired(f"The events of {of} are no longer kept.")
    return end


def channel_of(job_id: str) -> str:
    return f"cf:events:{job_id}"


def events_key(job_id: str) -> str:
    return f"cf:job:{job_id}:events"


def _read(client: RedisClient, key: str, after: EventId, limit: int) -> list[PublishedEvent]:
    with store_errors():
        entries = client.xrange(key, f"({after}", "+", count=limit)
    return [_event(entry_id, fields) for entry_id, fields in entries]


def _last(client: RedisClient, key: str) -> PublishedEvent | None:
    with store_errors():
        entries = client.xrevrange(key, count=1)
    return _event(*entries[0]) if entries else None


def _event(entry_id: bytes, fields: dict[bytes, bytes]) -> PublishedEvent:
    return PublishedEvent(_id(entry_id), fields[b"t"].decode(), fields[b"e"])


def _follows(event_id: EventId, last: EventId) -> bool:
    if last == BEFORE_ALL:
        return event_id == EventId(1, 1)
    return event_id.attempt == last.attempt and event_id.seq == last.seq + 1


def _published(message: bytes) -> PublishedEvent:
    event_id, kind, json = message.split(b" ", 2)
    return PublishedEvent(_id(event_id), kind.decode(), json)


def _id(raw: bytes) -> EventId:
    attempt, seq = raw.split(b"-")
    return EventId(int(attempt), int(seq))


def _ending_fields(event: Complete | Error) -> tuple[str, str, str]:
    """Conclusion, exit code and error of the record, as the script takes them."""
    conclusion = conclusion_of(event).value
    if isinstance(event, Error):
        error = JobError(code=event.code, message=event.error, hint=event.hint)
        return conclusion, "", msgspec.json.encode(error).decode()
    return conclusion, "" if event.exit_code is None else str(event.exit_code), ""


def _appended(answer: list[bytes | int]) -> Appended:
    outcome = Outcome(_text(answer[0]))
    return Appended(outcome, int(answer[1]) if len(answer) > 1 else 0)


def _text(value: bytes | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
