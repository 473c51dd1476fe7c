"""How web and workers reach a node: nudges by Celery, and control past every queue.

A nudge says "look at this job"; it carries the id alone and may come twice, late or never.

    placement              Celery queue  new sandboxes and builds: every node with room reads it
    node.<id>              Celery queue  jobs of the node's sandboxes
    cf:node:<id>:control   stream        field m: a `ControlMessage` as JSON
"""

from __future__ import annotations

from collections.abc import Iterator

import kombu.exceptions
import msgspec
from celery import Celery

from workers.contract.connection import RedisClient, store_errors
from workers.contract.errors import QueueUnavailable
from workers.contract.jobs import JobKind
from workers.contract.settings import StoreSettings

PLACEMENT_QUEUE = "placement"
PLACE_TASK = "coldframe.place_sandbox"
PRUNE_TASK = "coldframe.prune"
CONTROL_LIMIT = 10_000
"""Messages that a node which is away may have waiting; what they say is in the records too."""


class CancelJob(msgspec.Struct, frozen=True, rename="camel", tag="cancel_job", tag_field="type"):
    """End this job if it runs here; its record says why."""

    job_id: str


class RemoveSandbox(
    msgspec.Struct, frozen=True, rename="camel", tag="remove_sandbox", tag_field="type"
):
    """End its jobs, remove it; its record is in state `removing`."""

    sandbox_id: str


class EndSession(msgspec.Struct, frozen=True, rename="camel", tag="end_session", tag_field="type"):
    """End a session's shell and all that it left running."""

    sandbox_id: str
    name: str


class EndContext(msgspec.Struct, frozen=True, rename="camel", tag="end_context", tag_field="type"):
    """End a code context's kernel."""

    sandbox_id: str
    context_id: str


ControlMessage = CancelJob | RemoveSandbox | EndSession | EndContext


def celery_app(settings: StoreSettings) -> Celery:
    """The Celery application as every program of ours configures it."""
    app = Celery("coldframe")
    app.conf.update(
        broker_url=settings.redis_url,
        broker_transport_options={
            "socket_timeout": settings.socket_timeout_s,
            "socket_connect_timeout": settings.connect_timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # Nothing is unacknowledged while a job runs (early ack, no prefetch), so this only
            # brings back a message whose worker died in the instant between taking and acking it.
            "visibility_timeout": 120,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=8,
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        task_default_queue=PLACEMENT_QUEUE,
        task_create_missing_queues=True,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        enable_utc=True,
    )
    return app


def node_queue(node_id: str) -> str:
    return f"node.{node_id}"


def task_name(kind: JobKind) -> str:
    """One Celery task for each kind, so that Flower tells them apart."""
    return f"coldframe.{kind.value}"


class JobQueue:
    """Sends nudges. Raises `QueueUnavailable`; what was not sent, the leader sends later."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def nudge(self, job_id: str, kind: JobKind, node_id: str | None) -> None:
        """Sends a job to its node, or (None) to any; the task's id is the job's."""
        queue = PLACEMENT_QUEUE if node_id is None else node_queue(node_id)
        self._send(task_name(kind), job_id, queue)

    def place(self, sandbox_id: str) -> None:
        self._send(PLACE_TASK, sandbox_id, PLACEMENT_QUEUE)

    def _send(self, task: str, record_id: str, queue: str) -> None:
        try:
            self._app.send_task(
                task, args=(record_id,), task_id=record_id, queue=queue, retry=False
            )
        except (kombu.exceptions.OperationalError, OSError) as error:
            raise QueueUnavailable(f"the broker does not take messages: {error}") from error


class ControlChannel:
    """What a node is told past every queue; messages wait while it is away."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def send(self, node_id: str, message: ControlMessage) -> None:
        with store_errors():
            self._client.xadd(
                _control_key(node_id),
                {"m": msgspec.json.encode(message)},
                maxlen=CONTROL_LIMIT,
                approximate=True,
            )

    def receive(self, node_id: str, timeout_s: float) -> Iterator[ControlMessage]:
        """The messages that wait, oldest first, or that come within `timeout_s`.

        Each is dropped once the caller comes back for the next. What cannot be read is dropped.
        """
        key = _control_key(node_id)
        with store_errors():
            answer = self._client.xread({key: "0"}, count=100, block=int(timeout_s * 1000))
        for _, entries in answer or ():
            for entry_id, fields in entries:
                try:
                    message = msgspec.json.decode(fields[b"m"], type=ControlMessage)
                except (msgspec.DecodeError, KeyError):
                    pass
                else:
                    yield message
                with store_errors():
                    self._client.xdel(key, entry_id)

    def queue_length(self, queue: str) -> int:
        with store_errors():
            return int(self._client.llen(queue))


def _control_key(node_id: str) -> str:
    return f"cf:node:{node_id}:control"
