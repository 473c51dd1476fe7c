"""Follows jobs for the requests that wait for them, bounded in number, patient with Redis."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import structlog

from web.errors import TooManyReaders
from workers.contract.errors import StoreUnavailable
from workers.contract.events import BEFORE_ALL, EventId, PublishedEvent
from workers.contract.store import sandbox_events_key
from workers.contract.stream import (
    Events,
    EventStream,
    Hub,
    SandboxEventStream,
    Subscription,
    channel_of,
    follow,
)

RETRY_S = 0.5
"""Between two looks whether Redis is back."""

CLIENT_GONE = 499
"""For the log alone: nobody reads this answer."""

log = structlog.get_logger(__name__)


class Reader:
    """One request's place among the readers; closed by who opened it."""

    def __init__(self, readers: Readers, subscription: Subscription, stream: Events) -> None:
        self._readers = readers
        self._stream = stream
        self._subscription = subscription
        self._closed = False

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """May be called again."""
        if not self._closed:
            self._closed = True
            self._readers.release(self._subscription)

    def turn_to(self, channel: str) -> None:
        """Keeps the place and listens to another channel."""
        self._subscription = self._readers.exchange(self._subscription, channel)

    def wait_for_message(self, timeout_s: float) -> None:
        """Until something is published, or was perhaps missed, or the time is over."""
        self._subscription.take(timeout_s)

    def events(
        self, of: str, *, after: EventId = BEFORE_ALL, tick_s: float, is_new: bool = False
    ) -> Iterator[PublishedEvent | None]:
        """As `stream.follow`, with None at least so often as every `tick_s`; outlives Redis.

        Raises `StoreUnavailable` once Redis has been away for longer than readers are patient.
        """
        last = after
        away_since: float | None = None
        while True:
            try:
                for event in follow(
                    self._stream,
                    self._subscription,
                    of,
                    after=last,
                    heartbeat_s=tick_s,
                    # One that waits for the hub to connect is not told of what comes before.
                    is_new=is_new and self._subscription.sent,
                ):
                    away_since = None
                    if event is not None:
                        last = event.id
                    yield event
            except StoreUnavailable as fault:
                now = time.monotonic()
                if away_since is None:
                    away_since = now
                    log.warning("reader waits for redis", of=of, reason=fault.message)
                if now - away_since > self._readers.patience_s:
                    raise
                yield None
                is_new = False
                time.sleep(RETRY_S)
            else:
                return


class Readers:
    """All readers of this process."""

    def __init__(
        self,
        *,
        hub: Hub,
        jobs: EventStream,
        sandboxes: SandboxEventStream,
        limit: int,
        patience_s: float,
    ) -> None:
        self._jobs = jobs
        self._sandboxes = sandboxes
        self.patience_s = patience_s
        self._hub = hub
        self._limit = limit
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def open_job(self, job_id: str) -> Reader:
        """Subscribes, without waiting for Redis to confirm it. Raises `TooManyReaders`."""
        return self._open(channel_of(job_id), self._jobs)

    def open_sandbox(self, sandbox_id: str) -> Reader:
        """As `open_job`."""
        return self._open(sandbox_events_key(sandbox_id), self._sandboxes)

    def _open(self, channel: str, stream: Events) -> Reader:
        with self._lock:
            if self._count >= self._limit:
                raise TooManyReaders(f"{self._limit} streams and waiting requests are open.")
            self._count += 1
        return Reader(self, self._hub.subscribe(channel), stream)

    def release(self, subscription: Subscription) -> None:
        self._hub.unsubscribe(subscription)
        with self._lock:
            self._count -= 1

    def exchange(self, subscription: Subscription, channel: str) -> Subscription:
        self._hub.unsubscribe(subscription)
        return self._hub.subscribe(channel)


def client_left(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed its side; False where the server does not show its socket."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return False
    # Not `select`, which takes no descriptor above 1023.
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
        # What can be read is the end, or the client's next request, which stays where it is.
        return bool(poll.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
