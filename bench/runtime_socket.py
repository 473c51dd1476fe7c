"""Asks a sandbox's runtime directly, past web, Redis and workers."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
from pathlib import Path

from bench.errors import BaselineFailed

CALL_TIMEOUT_S = 30.0
SOCKET_NAME = "runtime.sock"
TOKEN_NAME = "token"


class RuntimeSocket:
    """Opens a connection for each call, as the workers do."""

    def __init__(self, run_dir: Path) -> None:
        """`run_dir` holds the runtime's socket and token. Raises `OSError`: neither is here."""
        token = (run_dir / TOKEN_NAME).read_text().strip()
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        # By the directory's descriptor: a socket's own path may have 107 bytes at most.
        self._directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)

    def close(self) -> None:
        os.close(self._directory)

    def exec(self, command: str) -> tuple[str, int]:
        """Runs a command to its terminal event; returns the execution's id and last number."""
        execution = f"bench-{secrets.token_hex(8)}"
        body = json.dumps({"kind": "exec", "command": command}).encode()
        connection = _UnixConnection(f"/proc/self/fd/{self._directory}/{SOCKET_NAME}")
        try:
            connection.request("PUT", f"/executions/{execution}?after=0", body, self._headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BaselineFailed(f"the runtime's socket: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise BaselineFailed(f"the runtime answered {response.status}: {content!r}")
        last = json.loads(content.strip().rsplit(b"\n", 1)[-1])
        if last["event"]["type"] != "complete":
            raise BaselineFailed(f"the runtime ended an execution with {last}")
        return execution, int(last["n"])

    def acknowledge(self, execution: str, n: int) -> None:
        """Lets the runtime forget an execution."""
        connection = _UnixConnection(f"/proc/self/fd/{self._directory}/{SOCKET_NAME}")
        try:
            body = json.dumps({"acks": {execution: n}}).encode()
            connection.request("POST", "/acks", body, self._headers)
            connection.getresponse().read()
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("runtime", timeout=CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_TIMEOUT_S)
        self.sock.connect(self._path)
