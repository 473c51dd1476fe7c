"""The composition root of worker, beat and Flower: `celery --app workers.celery_app …`."""

from __future__ import annotations

import logging
from typing import Any

import structlog
from celery import Celery, signals

from workers.contract.connection import connect
from workers.contract.queue import PLACEMENT_QUEUE, PRUNE_TASK, celery_app, node_queue
from workers.contract.store import JobStore
from workers.node import Node
from workers.settings import Settings
from workers.tasks import Starts, register

PRUNE_ROUND_S = 600.0


def make_app(settings: Settings) -> Celery:
    """The configured application. A node is made only where a worker starts."""
    app = celery_app(settings.store)
    app.conf.update(
        worker_pool="threads",
        worker_concurrency=settings.job_limit,
        worker_consumer="workers.poison:GuardedConsumer",
        broker_transport="workers.poison:GuardedTransport",
        # Our log lines are whole already; Celery would wrap each in one of its own.
        worker_redirect_stdouts=False,
        beat_schedule={"prune": {"task": PRUNE_TASK, "schedule": PRUNE_ROUND_S}},
    )
    nodes: list[Node] = []
    starts = Starts(app)
    client = connect(settings.store, max_connections=2)
    jobs = JobStore(client, retention_s=settings.store.retention_s)
    register(app, node=lambda: nodes[0], jobs=jobs, starts=starts)

    def read_queues(**_: Any) -> None:
        app.amqp.queues.select((PLACEMENT_QUEUE, node_queue(settings.node_id)))

    def start_node(**_: Any) -> None:
        nodes.append(Node(settings, app))
        nodes[0].start()
        starts.start()

    def stop_node(**_: Any) -> None:
        for node in nodes:
            node.stop()

    signals.celeryd_init.connect(read_queues, weak=False)
    signals.worker_init.connect(start_node, weak=False)
    signals.worker_shutting_down.connect(stop_node, weak=False)
    return app


def configure_logs() -> None:
    """JSON lines on standard error, Celery's own among them."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


configure_logs()
app = make_app(Settings.from_env())
