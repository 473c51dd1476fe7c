"""Takes Celery's messages so that none of them can end the worker, or be run for being kept.

Celery's consumer ends with "Unrecoverable error" on a body that is not what it expects (`[]`), and
kombu's transport on a list entry that is not JSON; the message goes back and ends the next worker
too. What fails here is logged and kept in the list `cf:dead-letters`, newest first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any, ClassVar

import structlog
from celery.worker.consumer import Consumer
from kombu.transport import redis as kombu_redis

DEAD_LETTERS_KEY = "cf:dead-letters"
MAX_DEAD_LETTERS = 1000
MAX_LETTER_BYTES = 64 * 1024
EVENT_ROUND_S = 0.25
"""How late Flower may be told: an event costs about as much as a short job."""

log = structlog.get_logger(__name__)


class GuardedConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, in which no message can raise, and whose task events go out in groups."""

    _flush_is_due = False

    def on_send_event_buffered(self) -> None:
        # Celery would flush in the next round of its loop, while the job itself is running.
        if self.hub and not self._flush_is_due:
            self._flush_is_due = True
            self.hub.call_later(EVENT_ROUND_S, self._flush_late)

    def _flush_late(self) -> None:
        self._flush_is_due = False
        self._flush_events()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def guarded(message: Any) -> None:
            try:
                handle(message)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the worker
                put_aside(message.channel.client, _letter(message), error)
                if not message.acknowledged:
                    message.ack()

        return guarded


class _TakenAtOnce(kombu_redis.QoS):
    """kombu's account of what is unacknowledged, which for us is nothing."""

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """kombu would look for what to bring back, under a lock whose script it brings along."""


class GuardedChannel(kombu_redis.Channel):
    """kombu's channel, in which an entry that is not a message is no message."""

    QoS = _TakenAtOnce
    credentials: ClassVar[Mapping[str, str]] = {}
    _client: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return {**super()._connparams(asynchronous), **self.credentials}  # type: ignore[no-untyped-call]

    def _create_client(self, asynchronous: bool = False) -> Any:
        """kombu makes a client for each operation, which redis-py 8 has made expensive."""
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._client is None or self._client.connection_pool is not self.pool:
            self._client = super()._create_client()  # type: ignore[no-untyped-call]
        return self._client

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Messages are taken, not borrowed: a lost one is sent again because its job is open.

        So nothing is ever unacknowledged, which kombu would write down, bring back and trip over.
        """
        return super().basic_consume(queue, True, *args, **kwargs)  # type: ignore[no-untyped-call]

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """There is nothing to acknowledge; Celery asks all the same."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            # The entry is gone from the list; what it was, the error tells.
            put_aside(self.client, repr(error).encode(), error)
            raise Empty from error


class GuardedTransport(kombu_redis.Transport):
    Channel = GuardedChannel


def guarded_transport(credentials: Mapping[str, str]) -> type[GuardedTransport]:
    """One that gives Redis these, `username` and `password`, whatever the broker's URL says.

    A worker tells its broker's URL to whoever asks how it is, so they are not to be in it.
    """

    class Channel(GuardedChannel):
        pass

    class Transport(GuardedTransport):
        pass

    Channel.credentials = credentials
    Transport.Channel = Channel
    return Transport


def put_aside(client: Any, letter: bytes, error: Exception) -> None:
    log.error("poisoned message put aside", error=f"{type(error).__name__}: {error}")
    pipeline = client.pipeline()
    pipeline.lpush(DEAD_LETTERS_KEY, letter[:MAX_LETTER_BYTES])
    pipeline.ltrim(DEAD_LETTERS_KEY, 0, MAX_DEAD_LETTERS - 1)
    pipeline.execute()


def _letter(message: Any) -> bytes:
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    headers = json.dumps(message.headers, default=str).encode()
    return headers + b"\n" + body
