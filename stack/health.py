"""Says by its exit code whether a service answers: `python -m stack.health PORT|SOCKET PATH`.

An answer will do, whatever it says, unless it is one of the service's own failures (5xx).
"""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Sequence

ANSWER_TIMEOUT_S = 5.0


def main(arguments: Sequence[str]) -> int:
    address, path = arguments
    try:
        with _connected(address) as connection:
            answer = _ask(connection, path)
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{address}: {error}\n")
        return 1
    sys.stderr.write(f"{address}{path} answers {answer}\n")
    return 0 if answer < http.client.INTERNAL_SERVER_ERROR else 1


def _connected(address: str) -> socket.socket:
    """To a port of this container's, or to a Unix socket."""
    if address.isdigit():
        return socket.create_connection(("127.0.0.1", int(address)), timeout=ANSWER_TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_TIMEOUT_S)
    connection.connect(address)
    return connection


def _ask(connection: socket.socket, path: str) -> int:
    """The status of the answer."""
    asking = http.client.HTTPConnection("localhost")
    asking.sock = connection
    asking.request("GET", path, headers={"Connection": "close"})
    return asking.getresponse().status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
