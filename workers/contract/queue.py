"""How web and workers reach a node: nudges by Celery, and control past every queue.

A nudge says "look at this job"; it carries the id alone and may come twice, late or never. It is
laid into its queue by the script that accepts the job or moves its line (`scripts/nudge.lua`).

    placement              Celery queue  new sandboxes and builds: every node with room reads it
    placement.egress       Celery queue  the same, of those with a network: nodes that have one do
    node.<id>              Celery queue  jobs of the node's sandboxes
    cf:node:<id>:control   stream        field m: a `ControlMessage` as JSON
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from workers.contract.connection import RedisClient, store_errors
from workers.contract.jobs import JobKind
from workers.contract.networks import Network, NetworkPolicy

PLACEMENT_QUEUE = "placement"
EGRESS_QUEUE = "placement.egress"
PLACEMENT_QUEUES = (PLACEMENT_QUEUE, EGRESS_QUEUE)
PLACE_TASK = "coldframe.place_sandbox"
PRUNE_TASK = "coldframe.prune"
CONTROL_LIMIT = 10_000
"""Messages that a node which is away may have waiting; what they say is in the records too."""


class _Message(msgspec.Struct, frozen=True, rename="camel", tag_field="type"):
    pass


class SandboxMessage(_Message, frozen=True):
    """What concerns one sandbox; its record says the rest."""

    sandbox_id: str


class CancelJob(_Message, frozen=True, tag="cancel_job"):
    """End this job if it runs here; its record says why."""

    job_id: str


class RemoveSandbox(SandboxMessage, frozen=True, tag="remove_sandbox"):
    """End its jobs, remove it; its record is in state `removing`."""


class ClaimSandbox(SandboxMessage, frozen=True, tag="claim_sandbox"):
    """One of the pool has an owner now; its record says which."""


class StopSandbox(SandboxMessage, frozen=True, tag="stop_sandbox"):
    """End its jobs and its container; its record is in state `stopping`."""


class StartSandbox(SandboxMessage, frozen=True, tag="start_sandbox"):
    """Start what was stopped; its record is in state `creating`."""


class PauseSandbox(SandboxMessage, frozen=True, tag="pause_sandbox"):
    """Freeze all that runs in it."""


class ResumeSandbox(SandboxMessage, frozen=True, tag="resume_sandbox"):
    """Let what was frozen go on."""


class EndSession(SandboxMessage, frozen=True, tag="end_session"):
    """End a session's shell and all that it left running."""

    name: str


class EndContext(SandboxMessage, frozen=True, tag="end_context"):
    """End a code context's kernel."""

    context_id: str


ControlMessage = (
    CancelJob
    | ClaimSandbox
    | RemoveSandbox
    | StopSandbox
    | StartSandbox
    | PauseSandbox
    | ResumeSandbox
    | EndSession
    | EndContext
)


_decoder: msgspec.json.Decoder[ControlMessage] = msgspec.json.Decoder(ControlMessage)


def node_queue(node_id: str) -> str:
    return f"node.{node_id}"


def placement_queue(network: NetworkPolicy) -> str:
    """Read by the nodes that can give a sandbox this network."""
    return PLACEMENT_QUEUE if network is Network.NONE else EGRESS_QUEUE


def task_name(kind: JobKind) -> str:
    """One Celery task for each kind, so that Flower tells them apart."""
    return f"coldframe.{kind.value}"


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
                    message = _decoder.decode(fields[b"m"])
                except (msgspec.DecodeError, KeyError):
                    pass
                else:
                    yield message
                with store_errors():
                    self._client.xdel(key, entry_id)


def _control_key(node_id: str) -> str:
    return f"cf:node:{node_id}:control"
