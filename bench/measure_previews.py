"""Measures previews beside nginx, as the proxy in front of the same server."""

from __future__ import annotations

import http.client
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.docker_baseline import DockerBaseline
from bench.errors import BaselineFailed, PlatformRefused
from bench.processes import peak_rss_kib
from bench.report import Part, Row, Unit, baseline_of, single
from bench.sampling import since_ms
from bench.site import Site
from bench.summary import Summary, summarise

GROUP = "Previews: a server in a sandbox, by 32 connections"
OURS = "through the relay"
NGINX = "through nginx, a connection kept"
NEEDED = ("wrk", "nginx")

PORT = 8080
DURATION_S = 3
DOWNLOAD_BYTES = 1 << 30
READ_BYTES = 1 << 20
TIMEOUT_S = 60.0
START_TIMEOUT_S = 10.0

SERVER = f"""
const small = Buffer.alloc(1024, 120), piece = Buffer.alloc(1 << 20, 120)
require('http').createServer((request, response) => {{
  if (request.url != '/large') return response.end(small)
  response.setHeader('Content-Length', {DOWNLOAD_BYTES})
  let left = {DOWNLOAD_BYTES} / piece.length
  const more = () => {{
    while (left-- > 0) if (!response.write(piece)) return response.once('drain', more)
    response.end()
  }}
  more()
}}).listen({PORT}, '0.0.0.0')
"""

NGINX_CONFIGURATION = """
daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream sandbox {{ server {upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://sandbox; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""

_P99 = re.compile(r"^\s*99%\s+([\d.]+)(us|ms|s)$", re.MULTILINE)
_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)$", re.MULTILINE)
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Proxy(NamedTuple):
    """Where the server is reached on this machine, and under which name."""

    name: str
    port: int
    host: str


class Taken(NamedTuple):
    """Of one proxy, a number for each round."""

    per_thousand_ms: list[float]
    p99_ms: list[float]
    download_ms: list[float]


def measure_previews(site: Site) -> Part:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return Part(left_out=(f"previews: {' and '.join(missing)} are not installed",))
    try:
        return _beside_nginx(site)
    except BaselineFailed as error:
        return Part(left_out=(f"previews: {error}",))


def _beside_nginx(site: Site) -> Part:
    with ExitStack() as stack:
        name = site.sandboxes.new_name()
        sandbox = site.api.put_sandbox(name, network="egress")
        stack.callback(site.sandboxes.remove, name)
        site.api.exec(name, f"node -e {shlex.quote(SERVER)} > /dev/null 2>&1 &")
        url = urlsplit(site.api.expose(name, PORT))
        docker = stack.enter_context(closing(DockerBaseline(sandbox.id)))
        nginx_port = stack.enter_context(_nginx(f"{docker.join_bridge()}:{PORT}"))
        proxies = [
            Proxy(OURS, url.port or 80, url.netloc),
            Proxy(NGINX, nginx_port, "localhost"),
        ]
        for proxy in proxies:
            _wait_for(proxy)
        taken = {proxy.name: Taken([], [], []) for proxy in proxies}
        for _ in range(site.sizes.preview_rounds):
            for proxy in proxies:
                rate, p99_ms = _wrk(proxy)
                of_it = taken[proxy.name]
                of_it.per_thousand_ms.append(1_000_000 / rate)
                of_it.p99_ms.append(p99_ms)
                of_it.download_ms.append(_download(proxy))
    rows: list[Row] = []
    for what, number in (("1000 requests", 0), ("99th percentile of them", 1), ("1 GiB", 2)):
        theirs = summarise(taken[NGINX][number])
        ours = summarise(taken[OURS][number])
        baseline = baseline_of(NGINX, theirs)
        note_ours, note_theirs = _note(number, ours), _note(number, theirs)
        rows.append(Row(GROUP, f"{what} {OURS}", ours, baseline=baseline, note=note_ours))
        rows.append(Row(GROUP, f"{what} {NGINX}", theirs, note=note_theirs, ours=False))
    for pid in site.pids("relay"):
        peak = peak_rss_kib(pid)
        if peak is not None:
            rows.append(Row(GROUP, "relay at its peak", single(peak / 1024), Unit.MIB))
    return Part(rows=tuple(rows))


def _note(number: int, summary: Summary) -> str:
    match number:
        case 0:
            return f"{1_000_000 / summary.median:.0f} requests/s"
        case 2:
            return f"{DOWNLOAD_BYTES / summary.median / 1_000_000:.2f} GB/s"
        case _:
            return ""


def _wrk(proxy: Proxy) -> tuple[float, float]:
    """Requests in a second, and the 99th percentile in milliseconds."""
    done = subprocess.run(
        [
            *("wrk", "-t1", "-c32", f"-d{DURATION_S}s", "--latency"),
            *("-H", f"Host: {proxy.host}", f"http://127.0.0.1:{proxy.port}/"),
        ],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    rate, p99 = _RATE.search(done.stdout), _P99.search(done.stdout)
    if rate is None or p99 is None or "Non-2xx" in done.stdout:
        raise BaselineFailed(f"wrk {proxy.name}: {done.stdout}{done.stderr}")
    return float(rate[1]), float(p99[1]) * _MS[p99[2]]


def _download(proxy: Proxy) -> float:
    """Milliseconds for all of it."""
    received = 0
    started_s = time.perf_counter()
    with closing(_connection(proxy)) as connection:
        connection.request("GET", "/large", headers={"Host": proxy.host})
        answer = connection.getresponse()
        buffer = bytearray(READ_BYTES)
        while size := answer.readinto(buffer):
            received += size
    if received != DOWNLOAD_BYTES:
        raise PlatformRefused(f"{proxy.name}: {received} of {DOWNLOAD_BYTES} bytes came")
    return since_ms(started_s)


def _connection(proxy: Proxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=TIMEOUT_S)


def _wait_for(proxy: Proxy) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            with closing(_connection(proxy)) as connection:
                connection.request("GET", "/", headers={"Host": proxy.host})
                if connection.getresponse().status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise BaselineFailed(f"the server does not answer {proxy.name}")


@contextmanager
def _nginx(upstream: str) -> Iterator[int]:
    """Its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="coldframe-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        configuration = directory / "nginx.conf"
        configuration.write_text(
            NGINX_CONFIGURATION.format(directory=directory, upstream=upstream, port=port)
        )
        process = subprocess.Popen(
            ["nginx", "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield port
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)
