"""How gunicorn runs the web.

It is read before gevent has patched anything, and so imports nothing of ours but the settings.
"""

import resource
import subprocess
import sys

from gunicorn.workers.base import Worker

from web.settings import Settings
from workers.contract.settings import InvalidSettings

try:
    _settings = Settings.from_env()
except InvalidSettings as mistakes:
    raise SystemExit(f"coldframe web: {mistakes}") from None

OTHER_DESCRIPTORS = 1000
"""Connections to Redis and Flower, uploads, and what Python itself has open."""

bind = f"{_settings.host}:{_settings.port}"
workers = _settings.processes
worker_class = "gevent"
# Besides the readers, room for requests that are answered at once, so that these are never starved.
worker_connections = _settings.max_readers + 1000

# Each connection is a descriptor, and many systems start programs with no more than 1024.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
_wanted = worker_connections + OTHER_DESCRIPTORS
if _hard != resource.RLIM_INFINITY:
    _wanted = min(_wanted, _hard)
if _soft != resource.RLIM_INFINITY and _soft < _wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_wanted, _hard))

# The application is made in each worker, after the fork and the patching: it starts a thread.
preload_app = False
# Also what a client may take to send its headers.
keepalive = 20
timeout = 60
# Streams do not end by themselves, and resume elsewhere.
graceful_timeout = 5
control_socket_disable = True
limit_request_line = 8190
limit_request_fields = 100
# The address of the client is nowhere used, so nobody is believed about it.
forwarded_allow_ips = ""
accesslog = None
errorlog = "-"


def on_starting(_: object) -> None:
    """Before the first worker: the database's tables. Beside this process, which keeps little."""
    if subprocess.run([sys.executable, "-m", "web", "migrate"], check=False).returncode:
        raise SystemExit("coldframe web: the database could not be made ready")


def worker_exit(_: object, worker: Worker) -> None:
    from web.app import close_app  # Not before the worker has patched what it imports.

    app = getattr(worker, "wsgi", None)
    if app is not None:  # None where the worker failed before it had one.
        close_app(app)
