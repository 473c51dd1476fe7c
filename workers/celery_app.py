"""The composition root of worker, beat and Flower: `celery --app workers.celery_app …`."""

from __future__ import annotations

import faulthandler
import logging
import sys
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from celery import Celery, signals
from kombu.transport import TRANSPORT_ALIASES

from workers.contract.connection import connect
from workers.contract.queue import PLACEMENT_QUEUE, PLACEMENT_QUEUES, PRUNE_TASK, node_queue
from workers.contract.settings import StoreSettings
from workers.contract.store import JobStore, SandboxStore
from workers.node import Node
from workers.poison import guarded_transport
from workers.settings import Settings
from workers.tasks import PlacementQueue, Starts, register

PRUNE_ROUND_S = 600.0

SWITCH_INTERVAL_S = 0.0005
"""Between two threads of the worker, all of which mostly wait: a job is handed over sooner."""


def make_app(settings: Settings) -> Celery:
    """The configured application. A node is made only where a worker starts."""
    # By the name of the scheme: kombu looks at no other setting where Redis is on a Unix socket.
    credentials = _credentials(settings.store.redis_url)
    # kombu's annotation leaves out that a function is taken, too.
    TRANSPORT_ALIASES["redis"] = lambda: guarded_transport(credentials)  # type: ignore[assignment]
    app = Celery("coldframe")
    app.conf.update(_configuration(settings.store))
    app.conf.update(
        worker_pool="threads",
        worker_concurrency=settings.job_limit,
        worker_consumer="workers.poison:GuardedConsumer",
        # Our log lines are whole already; Celery would wrap each in one of its own.
        worker_redirect_stdouts=False,
        beat_schedule={"prune": {"task": PRUNE_TASK, "schedule": PRUNE_ROUND_S}},
    )
    nodes: list[Node] = []
    starts, placement = Starts(), PlacementQueue()
    client = connect(settings.store, max_connections=2)
    jobs = JobStore(client, retention_s=settings.store.retention_s)
    sandboxes = SandboxStore(client, retention_s=settings.store.retention_s)
    register(app, node=lambda: nodes[0], jobs=jobs, sandboxes=sandboxes, starts=starts)

    def read_queues(**_: Any) -> None:
        app.amqp.queues.select((*PLACEMENT_QUEUES, node_queue(settings.node_id)))

    def start_node(**_: Any) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        node = Node(settings, read_placement=placement.read)
        try:
            node.start()
        except Exception as error:
            # Celery logs what a signal's receiver raises, and goes on: without a node.
            structlog.get_logger().critical("node not started", reason=str(error))
            raise SystemExit(1) from error
        nodes.append(node)

    def stop_node(**_: Any) -> None:
        for node in nodes:
            node.stop()

    signals.celeryd_init.connect(read_queues, weak=False)
    signals.worker_init.connect(start_node, weak=False)
    signals.worker_ready.connect(starts.listen, weak=False)
    signals.worker_ready.connect(placement.listen, weak=False)
    signals.worker_shutting_down.connect(stop_node, weak=False)
    return app


def _configuration(store: StoreSettings) -> dict[str, Any]:
    """Early acknowledgement and no prefetch: while a job runs, its message is nowhere."""
    return {
        "broker_url": _broker_url(store.redis_url),
        "broker_transport_options": {
            "socket_timeout": store.socket_timeout_s,
            "socket_connect_timeout": store.connect_timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # Our messages have no priorities, and each would be one more list to wait for.
            "priority_steps": [0],
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_pool_limit": 8,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "task_default_queue": PLACEMENT_QUEUE,
        "task_create_missing_queues": True,
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "enable_utc": True,
    }


def _broker_url(redis_url: str) -> str:
    """Kombu has a scheme of its own for Redis on a Unix socket; see also `_credentials`."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


def _credentials(redis_url: str) -> dict[str, str]:
    """User and password in a URL."""
    parts = urlsplit(redis_url)
    found = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in found.items() if value}


def configure_logs() -> None:
    """JSON lines on standard error, Celery's own among them; also where C code crashes."""
    faulthandler.enable()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    # A line for each task received and ended: Flower shows it, and each costs a job's time.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


configure_logs()
app = make_app(Settings.from_env())
