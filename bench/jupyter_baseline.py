"""Runs cells as one would without the platform: `jupyter_client`, and Jupyter Kernel Gateway.

Both have a kernel of their own, the one that sandboxes have, in an environment of the bench's.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from websockets.sync.client import ClientConnection, connect

from bench.errors import BaselineFailed

START_TIMEOUT_S = 60.0
LOOK_S = 0.05


class JupyterClient:
    """A kernel of its own, over Unix sockets, from `start` to `close`."""

    def __init__(self, python: Path) -> None:
        """Raises `BaselineFailed` where there is no such Python."""
        if not python.is_file():
            raise BaselineFailed(f"Jupyter: no {python} is here (make bench makes it)")
        self._python = python
        self._directory = Path(tempfile.mkdtemp(prefix="bench-kernel-"))
        self._kernel: subprocess.Popen[bytes] | None = None
        self._client = BlockingKernelClient()

    def start(self) -> None:
        connection_file, _ = write_connection_file(
            str(self._directory / "connection.json"),
            transport="ipc",
            ip=str(self._directory / "k"),
            key=uuid.uuid4().hex.encode(),
        )
        self._kernel = _run(self._python, "ipykernel_launcher", "-f", connection_file)
        self._client.load_connection_file(connection_file)
        self._client.start_channels(hb=False)  # A kernel that still starts has no heartbeat yet.
        self._client.wait_for_ready(timeout=START_TIMEOUT_S)

    def run(self, code: str) -> None:
        reply = self._client.execute_interactive(
            code, timeout=START_TIMEOUT_S, output_hook=lambda _: None
        )
        if reply["content"]["status"] != "ok":
            raise BaselineFailed(f"jupyter_client: {reply['content']}")

    def close(self) -> None:
        if self._client.channels_running:
            self._client.stop_channels()
        _end(self._kernel)
        shutil.rmtree(self._directory, ignore_errors=True)


class KernelGateway:
    """Jupyter Kernel Gateway with one kernel, over its WebSocket, until `close`."""

    def __init__(self, python: Path) -> None:
        """Raises `BaselineFailed` where it does not start."""
        if not python.is_file():
            raise BaselineFailed(f"Jupyter: no {python} is here (make bench makes it)")
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--KernelGatewayApp.ip=127.0.0.1", f"--KernelGatewayApp.port={port}"]
        self._process = _run(python, "kernel_gateway", *options)
        try:
            kernel = self._new_kernel(port)
            address = f"ws://127.0.0.1:{port}/api/kernels/{kernel}/channels"
            self._channels: ClientConnection = connect(address, max_size=None)
        except BaseException:
            _end(self._process)
            raise

    def run(self, code: str) -> None:
        """Returns when the cell's reply and its last output are there."""
        message_id = uuid.uuid4().hex
        self._channels.send(json.dumps(_execute_request(message_id, code)))
        awaited = {"execute_reply", "idle"}
        while awaited:
            message = json.loads(self._channels.recv(timeout=START_TIMEOUT_S))
            if message["parent_header"].get("msg_id") == message_id:
                awaited -= {message["msg_type"], message["content"].get("execution_state")}

    def close(self) -> None:
        self._channels.close()
        _end(self._process)

    def _new_kernel(self, port: int) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                    connection.request("POST", "/api/kernels", '{"name": "python3"}')
                    return str(json.loads(connection.getresponse().read())["id"])
            except ConnectionError:
                time.sleep(LOOK_S)
        raise BaselineFailed("Jupyter Kernel Gateway did not start")


def _run(python: Path, module: str, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [python, "-m", module, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A Ctrl-C is for us; `close` ends it.
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _execute_request(message_id: str, code: str) -> dict[str, Any]:
    return {
        "header": {
            "msg_id": message_id,
            "msg_type": "execute_request",
            "username": "",
            "session": "bench",
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": {"code": code, "silent": False, "store_history": True, "allow_stdin": False},
        "channel": "shell",
        "buffers": [],
    }
