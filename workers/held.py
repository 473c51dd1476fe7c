"""The jobs that this worker holds a claim on, and how another thread reaches into one."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from sandbox_runtime.protocol.client import ExecutionReader, RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.requests import CancelReason
from workers.contract.jobs import Job
from workers.contract.stream import Writer


class HeldJob:
    """One claimed job. Its own thread runs it; lease, control and shutdown threads look in."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.writer = Writer(job.id, job.line, job.sandbox_id, job.fence)
        self._lock = threading.Lock()
        self._cancel: CancelReason | None = None
        self._execution: tuple[RuntimeClient, str] | None = None
        self._reader: ExecutionReader | None = None
        self._let_go = False

    @property
    def cancelled(self) -> CancelReason | None:
        return self._cancel

    @property
    def let_go(self) -> bool:
        """Nothing more is to be written: the claim is lost, or this worker stops."""
        return self._let_go

    def cancel(self, reason: CancelReason) -> None:
        """Ends the job early; what it prints until then is kept."""
        with self._lock:
            self._cancel = self._cancel or reason
        self.pass_on_cancel()

    def pass_on_cancel(self) -> None:
        """Tells the runtime, where an execution is under way. Telling it twice does no harm."""
        with self._lock:
            execution, reason = self._execution, self._cancel
        if execution is None or reason is None:
            return
        client, execution_id = execution
        try:
            client.cancel(execution_id, reason)
        except RuntimeFault:
            pass  # Not started yet, or gone: the reading thread finds out and sees `cancelled`.

    def release(self) -> None:
        """Stops the reading; the execution goes on, for whoever takes over."""
        self._let_go = True
        with self._lock:
            reader = self._reader
        if reader is not None:
            reader.stop()

    @contextmanager
    def reading(
        self, client: RuntimeClient, execution_id: str, reader: ExecutionReader
    ) -> Iterator[None]:
        with self._lock:
            self._execution, self._reader = (client, execution_id), reader
        try:
            yield
        finally:
            with self._lock:
                self._execution, self._reader = None, None


class HeldJobs:
    """All held jobs of this worker, by id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, HeldJob] = {}
        self._nudged: dict[str, bool] = {}
        """The jobs that a thread has a turn at, and whether a nudge has come since."""
        self._stopping = False

    def __len__(self) -> int:
        return len(self._jobs)

    def all(self) -> list[HeldJob]:
        with self._lock:
            return list(self._jobs.values())

    def get(self, job_id: str) -> HeldJob | None:
        with self._lock:
            return self._jobs.get(job_id)

    def turns(self, job_id: str) -> Generator[None, None, None]:
        """One turn for each nudge of a job, so that one thread at a time claims and runs it.

        None where another thread has a turn at it: that one gets one more, for this nudge may
        tell of something that came after its claim.
        """
        with self._lock:
            if job_id in self._nudged:
                self._nudged[job_id] = True
            if job_id in self._nudged or self._stopping:
                return
            self._nudged[job_id] = False
        again = True
        try:
            while again:
                yield
                with self._lock:
                    again = self._nudged[job_id] and not self._stopping
                    if again:
                        self._nudged[job_id] = False
                    else:
                        del self._nudged[job_id]
        finally:
            if again:  # The turn ended in an error.
                with self._lock:
                    del self._nudged[job_id]

    @contextmanager
    def holding(self, job: Job) -> Iterator[HeldJob]:
        """Makes a claimed job known to the lease, control and shutdown threads."""
        held = HeldJob(job)
        with self._lock:
            self._jobs[job.id] = held
            if self._stopping:
                held.release()
        try:
            yield held
        finally:
            with self._lock:
                del self._jobs[job.id]

    def release_all(self) -> None:
        """For the worker's shutdown: executions go on, and are resumed by the next worker."""
        with self._lock:
            self._stopping = True
            jobs = list(self._jobs.values())
        for held in jobs:
            held.release()
