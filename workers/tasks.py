"""The Celery tasks: each takes the id of a record and looks at what is to be done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, Task
from celery.exceptions import Ignore

from workers.contract.jobs import JobKind
from workers.contract.queue import PLACE_TASK, PRUNE_TASK, task_name
from workers.contract.store import JobStore
from workers.node import Node

MAX_UNTOLD = 10_000

log = structlog.get_logger(__name__)


class Starts:
    """Tells Flower that tasks were started, which Celery's threads pool does not.

    From a thread of its own: an event costs about as much as a short job.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._untold: queue.Queue[tuple[str, str]] = queue.Queue(MAX_UNTOLD)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="starts", daemon=True)
        self._thread.start()

    def tell(self, task_id: str, hostname: str) -> None:
        try:
            self._untold.put_nowait((task_id, hostname))
        except queue.Full:
            pass  # Flower shows one start less.

    def _run(self) -> None:
        while True:
            task_id, hostname = self._untold.get()
            try:
                with self._app.events.default_dispatcher(hostname=hostname) as dispatcher:
                    dispatcher.send("task-started", uuid=task_id)
            except Exception as error:  # noqa: BLE001 - Flower is a spectator
                log.debug("start not told", reason=str(error))


def register(app: Celery, *, node: Callable[[], Node], jobs: JobStore, starts: Starts) -> None:
    """Adds the tasks to an application. `node` gives the worker's node, once it has started."""

    def run(task: Task[Any, Any], job_id: str) -> None:
        starts.tell(job_id, task.request.hostname)
        if not node().runner.run(job_id):
            # Not a success, and not to be told to Flower as one.
            raise Ignore

    def place(task: Task[Any, Any], sandbox_id: str) -> None:
        starts.tell(sandbox_id, task.request.hostname)
        if not node().sandboxes.take(sandbox_id):
            raise Ignore

    def prune(_: Task[Any, Any]) -> None:
        dropped = jobs.prune(jobs.owners())
        log.info("job lists pruned", dropped=dropped)

    for kind in JobKind:
        app.task(run, name=task_name(kind), bind=True)
    app.task(place, name=PLACE_TASK, bind=True)
    app.task(prune, name=PRUNE_TASK, bind=True)
