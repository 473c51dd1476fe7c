"""Tells how a platform is: its programs, and what its API says of its node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stack import redis_server
from stack.api import Api, ApiFailed, NodeView
from stack.ports import accepts
from stack.processes import RunningProgram
from stack.programs import ProgramName
from stack.stack import Stack

API_TIMEOUT_S = 5.0
HEADINGS = ("program", "pid", "up since", "address", "healthy")


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """One row of the table."""

    name: str
    running: RunningProgram | None
    address: str
    problem: str
    """Empty: it is healthy."""

    @property
    def cells(self) -> tuple[str, ...]:
        if self.running is None:
            return (self.name, "-", "-", self.address, self.problem or "yes")
        pid, since = str(self.running.identity.pid), self.running.started_at
        return (self.name, pid, since, self.address, self.problem or "yes")


@dataclass(frozen=True, slots=True)
class Status:
    """How a platform is at one moment."""

    programs: Sequence[ProgramStatus]
    nodes: Sequence[NodeView]
    image: str
    driver: str

    @property
    def is_healthy(self) -> bool:
        return not any(program.problem for program in self.programs)

    def render(self) -> str:
        lines = [render_table([HEADINGS, *(program.cells for program in self.programs)])]
        for node in self.nodes:
            state = "ready" if node.ready else f"not ready: {node.problem}"
            lines.append(
                f"node {node.id}: {state}, driver {node.driver}, {node.sandboxes} sandboxes, "
                f"{node.running_jobs} of {node.job_limit} jobs"
            )
            lines += [f"  warning: {warning}" for warning in node.warnings]
        lines.append(f"driver {self.driver}, image {self.image}")
        return "\n".join(lines)


def look(stack: Stack) -> Status:
    driver = stack.chosen_driver()
    api = Api(stack.client_env, timeout_s=API_TIMEOUT_S)
    nodes, nodes_problem = _nodes(api)
    programs = [
        ProgramStatus(
            name=name,
            running=stack.processes.find(name),
            address=_address(stack, name),
            problem=_problem(stack, name, api, nodes, nodes_problem),
        )
        for name in ProgramName
    ]
    return Status(programs, nodes, image=stack.image or "none", driver=driver)


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _nodes(api: Api) -> tuple[list[NodeView], str]:
    """The nodes, or why there are none."""
    try:
        return api.nodes(), ""
    except ApiFailed as error:
        return [], str(error)


def _problem(
    stack: Stack, name: ProgramName, api: Api, nodes: Sequence[NodeView], nodes_problem: str
) -> str:
    """What is wrong with a program; empty where nothing is."""
    is_external = name is ProgramName.REDIS and bool(stack.settings.redis_url)
    if not is_external and stack.processes.find(name) is None:
        return "not running"
    match name:
        case ProgramName.REDIS:
            return "" if redis_server.answers(stack.redis_url) else "does not answer"
        case ProgramName.WEB:
            return _answer_problem(api, "/healthz")
        case ProgramName.WORKER:
            own = [node for node in nodes if node.id == stack.settings.node]
            if not own:
                return nodes_problem or "no heartbeat"
            return "" if own[0].ready else own[0].problem
        case ProgramName.RELAY:
            is_up = accepts(stack.settings.host, stack.settings.preview_port)
            return "" if is_up else "does not answer"
        case ProgramName.BEAT:
            return ""
        case ProgramName.FLOWER:
            return _answer_problem(api, "/flower/healthcheck")


def _answer_problem(api: Api, path: str) -> str:
    try:
        status, _ = api.status(path)
    except ApiFailed as error:
        return str(error)
    return "" if status == 200 else f"{path} answers {status}"


def _address(stack: Stack, name: ProgramName) -> str:
    match name:
        case ProgramName.REDIS:
            return stack.redis_url.rpartition("@")[2].rpartition("://")[2].removesuffix("?db=0")
        case ProgramName.WEB:
            return stack.settings.url
        case ProgramName.RELAY:
            return f"{stack.settings.host}:{stack.settings.preview_port}"
        case ProgramName.WORKER | ProgramName.BEAT:
            return "-"
        case ProgramName.FLOWER:
            return f"{stack.settings.url}/flower/"
