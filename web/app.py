"""The web's composition root: `gunicorn --config web/gunicorn_conf.py 'web.app:create_app()'`."""

from __future__ import annotations

import logging
import re
import time
from importlib.metadata import PackageNotFoundError, version

import redis
import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from web import errors
from web.admission import Admission
from web.api.builds import BuildRoutes
from web.api.code import CodeRoutes
from web.api.contexts import ContextRoutes
from web.api.document import DocumentRoutes
from web.api.execs import ExecRoutes
from web.api.files import FileRoutes
from web.api.flower import FlowerRoutes
from web.api.git import GitRoutes
from web.api.health import HealthRoutes
from web.api.job_answers import JobAnswers
from web.api.jobs import JobList, JobRoutes
from web.api.keys import KeyRoutes
from web.api.nodes import NodeRoutes
from web.api.ports import PortRoutes
from web.api.processes import ProcessRoutes
from web.api.sandboxes import SandboxRoutes
from web.api.sessions import SessionRoutes
from web.api.terminals import TerminalRoutes
from web.auth import Authentication, Caller
from web.cancellation import Cancellation
from web.database import Database
from web.door import Door
from web.fleet_metrics import FleetMetrics
from web.keys import KeyStore, Scope
from web.metrics import Metrics
from web.names import SandboxNames
from web.operations import Operation, json_answer, register
from web.placement import Placement
from web.readers import Readers
from web.relays import Relays
from web.settings import Settings
from workers.contract.clock import timestamp
from workers.contract.connection import RedisClient, connect
from workers.contract.counts import CountStore
from workers.contract.errors import Fault, SandboxNotRunning
from workers.contract.jobs import new_id
from workers.contract.owners import Limits, RequestRates
from workers.contract.ports import PortStore
from workers.contract.queue import ControlChannel
from workers.contract.sandboxes import SandboxState
from workers.contract.store import JobStore, NodeStore, SandboxStore
from workers.contract.stream import EventStream, Hub, SandboxEventStream
from workers.contract.terminals import TerminalStore
from workers.contract.tls import web_context

PAGES = "/flower/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_CLOSING = "coldframe.closing"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

log = structlog.get_logger(__name__)


def create_app(settings: Settings | None = None) -> Flask:
    """The whole application. To be called in the process that serves: it starts a thread."""
    settings = settings or Settings.from_env()
    if not structlog.is_configured():
        configure_logs()
    app = Flask("web", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = settings.max_body_bytes
    # A path is what it says: no redirects to a tidier one.
    app.url_map.merge_slashes = False

    store = settings.store
    client = connect(store, max_connections=settings.redis_connections)
    jobs = JobStore(client, retention_s=store.retention_s)
    sandboxes = SandboxStore(client, retention_s=store.retention_s)
    nodes = NodeStore(client)
    stream = EventStream(client, retention_s=store.retention_s, now=timestamp)
    control = ControlChannel(client)
    hub = Hub(client)
    readers = Readers(
        hub=hub,
        jobs=stream,
        sandboxes=SandboxEventStream(client),
        limit=settings.max_readers,
        patience_s=settings.patience_s,
    )
    database = Database(settings.database_url)
    keys = KeyStore(database, now=timestamp)
    admission = Admission(client, settings.redis_full_percent)
    metrics = Metrics(
        readers=lambda: readers.count,
        redis_up=lambda: _answers(client),
        fleet=FleetMetrics(nodes=nodes, jobs=jobs, counts=CountStore(client)),
    )
    placement = Placement(
        sandboxes=sandboxes,
        nodes=nodes,
        control=control,
        readers=readers,
        admission=admission,
        create_limit_s=settings.create_limit_s,
        remove_limit_s=settings.remove_limit_s,
        capacity_limit_s=settings.capacity_limit_s,
        limits=_limits,
    )
    cancellation = Cancellation(jobs=jobs, stream=stream, control=control, now=timestamp)
    answers = JobAnswers(
        jobs=jobs,
        readers=readers,
        admission=admission,
        cancellation=cancellation,
        metrics=metrics,
        limits=_limits,
        heartbeat_s=settings.heartbeat_s,
        wait_limit_s=settings.wait_limit_s,
    )
    names = SandboxNames(sandboxes=sandboxes, placement=placement, now=timestamp)
    relays = Relays(
        nodes=nodes,
        relay_socket=settings.relay_socket,
        tls=web_context(settings.tls_dir) if settings.tls_dir else None,
        previews=settings.previews,
    )
    door = Door(relays=relays, names=names, sandboxes=sandboxes)
    job_list = JobList(jobs)
    document = DocumentRoutes(version=_version())
    operations = [
        *SandboxRoutes(
            sandboxes=sandboxes,
            placement=placement,
            readers=readers,
            answers=answers,
            now=timestamp,
        ).operations(),
        *ExecRoutes(sandboxes=sandboxes, names=names, answers=answers, now=timestamp).operations(),
        *CodeRoutes(
            sandboxes=sandboxes, names=names, answers=answers, door=door, now=timestamp
        ).operations(),
        *SessionRoutes(
            sandboxes=sandboxes,
            names=names,
            placement=placement,
            control=control,
            now=timestamp,
        ).operations(),
        *ContextRoutes(
            sandboxes=sandboxes, names=names, control=control, door=door, now=timestamp
        ).operations(),
        *BuildRoutes(
            jobs=job_list,
            answers=answers,
            placement=placement,
            now=timestamp,
            max_body_bytes=settings.max_body_bytes,
            max_archive_bytes=settings.max_archive_bytes,
        ).operations(),
        *JobRoutes(
            jobs=job_list,
            stream=stream,
            readers=readers,
            answers=answers,
            cancellation=cancellation,
            sandboxes=sandboxes,
            door=door,
        ).operations(),
        *PortRoutes(
            door=door,
            ports=PortStore(client),
            sandboxes=sandboxes,
            relays=relays,
            now=timestamp,
        ).operations(),
        *GitRoutes(door=door, sandboxes=sandboxes).operations(),
        *FileRoutes(
            door=door, sandboxes=sandboxes, max_upload_bytes=settings.max_upload_bytes
        ).operations(),
        *ProcessRoutes(door=door, sandboxes=sandboxes).operations(),
        *TerminalRoutes(
            door=door,
            sandboxes=sandboxes,
            terminals=TerminalStore(client),
            relays=relays,
        ).operations(),
        *NodeRoutes(nodes).operations(),
        *KeyRoutes(keys).operations(),
        *HealthRoutes(placement=placement, metrics=metrics).operations(),
        *FlowerRoutes(settings.flower_socket).operations(),
        *document.operations(),
    ]
    document.describe(operations)
    _guard(
        app,
        Authentication(keys, operator_key=settings.api_key),
        RequestRates(client),
        sandboxes,
        operations,
    )
    _finish(app, metrics)
    _answer_errors(app)
    register(app, operations)
    hub.start()
    app.extensions[_CLOSING] = [client.close, database.close, relays.close, hub.stop]
    return app


def close_app(app: Flask) -> None:
    """Ends what `create_app` began, in reverse order."""
    for close in reversed(app.extensions[_CLOSING]):
        close()


def configure_logs() -> None:
    """JSON lines on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _guard(
    app: Flask,
    authentication: Authentication,
    rates: RequestRates,
    sandboxes: SandboxStore,
    operations: list[Operation],
) -> None:
    """Lets nobody in without a key; also not to paths and methods that do not exist."""
    by_name = {operation.name: operation for operation in operations}

    @app.before_request
    def check_key() -> None:
        g.started = time.monotonic()
        sent = request.headers.get("X-Request-Id", "")
        g.request_id = sent if _REQUEST_ID.fullmatch(sent) else new_id()
        operation = by_name.get(request.endpoint or "")
        if operation is not None and not operation.needs_key:
            return
        if request.path.startswith(PAGES):
            caller = authentication.caller_of_page(request)
        else:
            caller = authentication.caller_of(request)
        per_second = caller.limits.requests_per_second
        if per_second is not None:
            g.allowance = rates.take(caller.key_id, per_second)
            if not g.allowance.is_allowed:
                raise errors.RateLimited(per_second)
        g.caller = caller
        if operation is not None:
            caller.check(operation.needed_scope)
            if operation.reaches_in and Scope.RUN not in caller.scopes:
                _check_running(sandboxes, caller, (request.view_args or {})["name"])


def _check_running(sandboxes: SandboxStore, caller: Caller, name: str) -> None:
    """A key that may only look neither makes a sandbox nor starts one."""
    sandbox = sandboxes.by_name(caller.owner, name)
    if sandbox.state not in (SandboxState.RUNNING, SandboxState.PAUSED):
        raise SandboxNotRunning(name, sandbox.state)


def _limits() -> Limits:
    caller: Caller = g.caller
    return caller.limits


def _finish(app: Flask, metrics: Metrics) -> None:
    """What every answer has, and what is counted and written down of it."""

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if "allowance" in g:
            response.headers["RateLimit-Limit"] = str(g.allowance.limit)
            response.headers["RateLimit-Remaining"] = str(g.allowance.remaining)
            response.headers["RateLimit-Reset"] = "1"
        metrics.request_answered(
            route=request.url_rule.rule if request.url_rule else "unknown",
            method=request.method if request.method in METHODS else "other",
            status=response.status_code,
            seconds=time.monotonic() - g.started,
        )
        if "caller" in g and request.url_rule and request.method not in SAFE_METHODS:
            _audit(g.caller, response)
        return response


def _audit(caller: Caller, response: Response) -> None:
    """One line for each change that somebody asked for, whatever came of it."""
    log.info(
        "audit",
        owner=caller.owner,
        key_id=caller.key_id,
        operation=request.endpoint,
        target=request.view_args,
        status=response.status_code,
        request_id=g.request_id,
    )


def _answer_errors(app: Flask) -> None:
    """Turns whatever is raised into an error's body, by the table."""

    @app.errorhandler(Exception)
    def answer(error: Exception) -> Response:
        fault = _fault_of(error)
        row = errors.row_of(fault)
        headers = {}
        if row.retry_after_s is not None:
            headers["Retry-After"] = str(row.retry_after_s)
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        if isinstance(error, errors.Unauthorized):
            scheme = "Basic" if request.path.startswith(PAGES) else "Bearer"
            headers["WWW-Authenticate"] = f'{scheme} realm="coldframe"'
        if type(fault) is Fault:
            log.error("request failed", request_id=g.request_id, path=request.path, exc_info=error)
        elif row.status >= 500:
            log.warning(
                "request refused",
                request_id=g.request_id,
                path=request.path,
                code=fault.code,
                reason=fault.message,
            )
        return json_answer(errors.answer_of(fault, g.request_id), row.status, headers)


def _fault_of(error: Exception) -> Fault:
    match error:
        case Fault():
            return error
        case NotFound():
            return errors.RouteNotFound()
        case MethodNotAllowed():
            return errors.MethodNotAllowed(sorted(error.valid_methods or ()))
        case RequestEntityTooLarge():
            return errors.BodyTooLarge(request.max_content_length)
        case HTTPException(code=code, description=description) if code and code < 500:
            return errors.UnreadableBody(description or "The request cannot be read.")
        case _:
            return errors.internal_error()


def _answers(client: RedisClient) -> float:
    try:
        client.ping()
    except redis.exceptions.RedisError:
        return 0.0
    return 1.0


def _version() -> str:
    try:
        return version("coldframe-server")
    except PackageNotFoundError:
        return "0"
