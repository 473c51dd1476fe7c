"""Carries out what a node is told past every queue, while all its job threads may be busy."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import structlog

from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.requests import CancelReason
from workers.contract.errors import Fault, SandboxNotFound
from workers.contract.queue import (
    CancelJob,
    ClaimSandbox,
    ControlChannel,
    ControlMessage,
    EndContext,
    EndSession,
    PauseSandbox,
    RemoveSandbox,
    ResumeSandbox,
    StartSandbox,
    StopSandbox,
)
from workers.contract.store import SandboxStore
from workers.held import HeldJobs
from workers.lifecycle import Sandboxes, UnknownSandbox

THREADS = 8
"""One frozen sandbox, or eight slow removals, must not hold up a cancel."""

RECEIVE_S = 1.0

log = structlog.get_logger(__name__)


class Control:
    """The node's ear. `run` is the body of a thread."""

    def __init__(
        self,
        *,
        node_id: str,
        channel: ControlChannel,
        held: HeldJobs,
        sandboxes: Sandboxes,
        records: SandboxStore,
    ) -> None:
        self._node_id = node_id
        self._channel = channel
        self._held = held
        self._sandboxes = sandboxes
        self._records = records
        self._stopped = threading.Event()

    def run(self) -> None:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="control") as pool:
            while not self._stopped.is_set():
                try:
                    for message in self._channel.receive(self._node_id, RECEIVE_S):
                        pool.submit(self._carry_out, message)
                except Fault as fault:
                    log.warning("control waits for redis", reason=fault.message)
                    time.sleep(0.2)

    def stop(self) -> None:
        self._stopped.set()

    def _carry_out(self, message: ControlMessage) -> None:
        try:
            match message:
                case CancelJob(job_id=job_id):
                    if held := self._held.get(job_id):
                        held.cancel(CancelReason.CANCELLED)
                case ClaimSandbox(sandbox_id=sandbox_id):
                    self._sandboxes.confirm(self._records.get(sandbox_id))
                case RemoveSandbox(sandbox_id=sandbox_id):
                    self._sandboxes.remove(self._records.get(sandbox_id))
                case StopSandbox(sandbox_id=sandbox_id):
                    self._sandboxes.stop(self._records.get(sandbox_id))
                case StartSandbox(sandbox_id=sandbox_id):
                    self._sandboxes.start(self._records.get(sandbox_id))
                case PauseSandbox(sandbox_id=sandbox_id):
                    self._sandboxes.pause(self._records.get(sandbox_id))
                case ResumeSandbox(sandbox_id=sandbox_id):
                    self._sandboxes.resume(self._records.get(sandbox_id))
                case EndSession(sandbox_id=sandbox_id, name=name):
                    self._sandboxes.end_session(sandbox_id, name)
                case EndContext(sandbox_id=sandbox_id, context_id=context_id):
                    self._sandboxes.place(sandbox_id).client.end_context(context_id)
        except (SandboxNotFound, UnknownSandbox):
            pass  # It is gone, and with it what was to be ended.
        except RuntimeFault as fault:
            log.warning("control not carried out", message=str(message), reason=fault.message)
        except Exception:
            log.exception("control failed", message=str(message))
