"""How the web notices that a client has left."""

from __future__ import annotations

import fcntl
import resource
import socket
from collections.abc import Iterator

import pytest

from web.readers import client_left

SELECT_LIMIT = 1024


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_client_that_says_nothing_is_still_there(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert not client_left({"gunicorn.socket": pair[0]})


def test_a_client_that_has_closed_its_side_has_left(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair

    theirs.close()

    assert client_left({"gunicorn.socket": ours})


def test_a_client_that_sent_its_next_request_is_there_and_loses_none_of_it(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair

    theirs.sendall(b"GET /")

    assert not client_left({"gunicorn.socket": ours})
    assert ours.recv(10) == b"GET /"


def test_a_client_is_not_taken_for_gone_where_a_thousand_others_are_connected(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2 * SELECT_LIMIT, hard), hard))
    try:
        high = fcntl.fcntl(pair[0].fileno(), fcntl.F_DUPFD, SELECT_LIMIT)
        with socket.socket(fileno=high) as ours:
            assert not client_left({"gunicorn.socket": ours})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_that_does_not_show_its_socket_is_not_asked() -> None:
    assert not client_left({})
