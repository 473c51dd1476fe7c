"""A Celery application whose tasks do nothing, and its worker: `python -m bench.noop_app`.

It is what a job costs that only goes through Celery and Redis.
"""

from __future__ import annotations

import redis
from celery import Celery

from bench.settings import NoopSettings

ANSWER = "hi"
RESULT_TASK = "bench.noop"
PUBLISH_TASK = "bench.noop_publish"
WORKER_THREADS = 4
RESULT_LIFE_S = 60


def make_app(settings: NoopSettings) -> Celery:
    """The same for the one who asks and for the worker."""
    prefix = {"global_keyprefix": f"{settings.prefix}:"}
    app = Celery("bench")
    app.conf.update(
        broker_url=_celery_url(settings.redis_url),
        result_backend=_celery_url(settings.redis_url),
        broker_transport_options=prefix,
        result_backend_transport_options=prefix,
        result_expires=RESULT_LIFE_S,
        task_default_queue=settings.prefix,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    client = redis.Redis.from_url(settings.redis_url)

    def noop() -> str:
        return ANSWER

    def noop_publish(channel: str) -> None:
        client.publish(channel, ANSWER)

    app.task(noop, name=RESULT_TASK)
    app.task(noop_publish, name=PUBLISH_TASK, ignore_result=True)
    return app


def _celery_url(redis_url: str) -> str:
    """Celery's own scheme where Redis listens on a Unix socket."""
    path = redis_url.removeprefix("unix://").partition("?")[0]
    return f"redis+socket://{path}" if redis_url.startswith("unix:") else redis_url


def main() -> None:
    make_app(NoopSettings.from_env()).worker_main(
        [
            "worker",
            "--pool=threads",
            f"--concurrency={WORKER_THREADS}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=ERROR",
        ]
    )


if __name__ == "__main__":
    main()
