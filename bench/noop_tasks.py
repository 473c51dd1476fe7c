"""Sends no-op Celery tasks to a worker of the bench's own and waits for their answers."""

from __future__ import annotations

import subprocess
import sys
import time

import celery.exceptions
import redis

from bench.errors import BaselineFailed
from bench.noop_app import PUBLISH_TASK, RESULT_TASK, make_app
from bench.settings import NoopSettings

START_DEADLINE_S = 30.0
ANSWER_TIMEOUT_S = 10.0
STOP_GRACE_S = 10.0


class NoopTasks:
    """The worker runs from `start` to `close`, which also removes all keys that Celery wrote."""

    def __init__(self, redis_url: str, prefix: str) -> None:
        self._settings = NoopSettings(redis_url=redis_url, prefix=prefix)
        app = make_app(self._settings)
        self._by_result = app.tasks[RESULT_TASK]
        self._by_publish = app.tasks[PUBLISH_TASK]
        self._client = redis.Redis.from_url(redis_url, socket_timeout=ANSWER_TIMEOUT_S)
        self._channel = f"{prefix}:reply"
        self._replies = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises `BaselineFailed` where the worker does not answer in time."""
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "bench.noop_app"],
            env=self._settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A Ctrl-C is for us; `close` ends the worker.
            start_new_session=True,
        )
        try:
            self._by_result.delay().get(timeout=START_DEADLINE_S)
            self._replies.subscribe(self._channel)
            self._await_reply("subscribe")
        except (celery.exceptions.TimeoutError, redis.exceptions.RedisError, OSError) as error:
            raise BaselineFailed(f"the no-op Celery worker: {error or 'no answer'}") from error

    def close(self) -> None:
        if self._worker is not None:
            self._worker.terminate()
            try:
                self._worker.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
            self._worker = None
        self._replies.close()
        for key in self._client.scan_iter(match=f"{self._settings.prefix}*", count=1000):
            self._client.delete(key)
        self._client.close()

    def by_result_backend(self) -> None:
        """`.delay().get()`."""
        self._by_result.delay().get(timeout=ANSWER_TIMEOUT_S)

    def by_publish(self) -> None:
        """The task publishes its answer on a channel that we are subscribed to."""
        self._by_publish.delay(self._channel)
        self._await_reply("message")

    def _await_reply(self, kind: str) -> None:
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < deadline_s:
            message = self._replies.get_message(timeout=ANSWER_TIMEOUT_S)
            if message is not None and message["type"] == kind:
                return
        raise BaselineFailed("the no-op Celery worker did not publish its answer")
