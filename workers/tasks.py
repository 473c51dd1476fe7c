"""The Celery tasks: each takes the id of a record and looks at what is to be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container
from queue import SimpleQueue
from typing import Any

import structlog
from celery import Celery, Task
from celery.exceptions import Ignore

from workers.contract.jobs import JobKind
from workers.contract.queue import PLACE_TASK, PLACEMENT_QUEUES, PRUNE_TASK, task_name
from workers.contract.store import JobStore, SandboxStore
from workers.node import Node

TELL_STARTS_S = 0.2

log = structlog.get_logger(__name__)


class Starts:
    """Tells Flower that tasks were started, which Celery's threads pool does not.

    A little later, and many at a time: at once it would wake Celery's loop beside a job that has
    just begun. Flower puts the two in order by their times.
    """

    def __init__(self) -> None:
        self._untold: SimpleQueue[tuple[str, float]] = SimpleQueue()

    def listen(self, sender: Any, **_: Any) -> None:
        """For Celery's signal `worker_ready`, which comes with the consumer."""
        threading.Thread(target=self._run, args=(sender,), name="starts", daemon=True).start()

    def tell(self, task_id: str) -> None:
        self._untold.put((task_id, time.time()))

    def _run(self, consumer: Any) -> None:
        while True:
            task_id, started_at = self._untold.get()
            time.sleep(TELL_STARTS_S)
            self._send(consumer, task_id, started_at)
            while not self._untold.empty():
                self._send(consumer, *self._untold.get())

    def _send(self, consumer: Any, task_id: str, started_at: float) -> None:
        dispatcher = getattr(consumer, "event_dispatcher", None)
        if dispatcher is not None:
            dispatcher.send("task-started", uuid=task_id, timestamp=started_at)


class PlacementQueue:
    """Has this worker read the queues of placement, or leave them to others."""

    def __init__(self) -> None:
        self._consumer: Any = None

    def listen(self, sender: Any, **_: Any) -> None:
        """For Celery's signal `worker_ready`, which comes with the consumer."""
        self._consumer = sender

    def read(self, wanted: Container[str]) -> None:
        """These alone. To be told again and again: a consumer whose broker was away reads all."""
        if self._consumer is not None:
            self._consumer.call_soon(self._change, wanted)

    def _change(self, wanted: Container[str]) -> None:
        """On the thread of Celery's loop."""
        reading = self._consumer.task_consumer
        for queue in PLACEMENT_QUEUES:
            if reading is None or reading.consuming_from(queue) == (queue in wanted):
                continue
            if queue in wanted:
                self._consumer.add_task_queue(queue)
            else:
                self._consumer.cancel_task_queue(queue)


def register(
    app: Celery,
    *,
    node: Callable[[], Node],
    jobs: JobStore,
    sandboxes: SandboxStore,
    starts: Starts,
) -> None:
    """Adds the tasks to an application. `node` gives the worker's node, once it has started."""

    def run(_: Task[Any, Any], job_id: str) -> None:
        starts.tell(job_id)
        if not node().runner.run(job_id):
            # Not a success, and not to be told to Flower as one.
            raise Ignore

    def place(_: Task[Any, Any], sandbox_id: str) -> None:
        starts.tell(sandbox_id)
        if not node().sandboxes.take(sandbox_id):
            raise Ignore

    def prune(_: Task[Any, Any]) -> None:
        dropped = jobs.prune(jobs.owners())
        names = sandboxes.prune_names()
        log.info("lists pruned", jobs=dropped, sandbox_names=names)

    for kind in JobKind:
        app.task(run, name=task_name(kind), bind=True)
    app.task(place, name=PLACE_TASK, bind=True)
    app.task(prune, name=PRUNE_TASK, bind=True)
