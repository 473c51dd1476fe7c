"""WebSockets to a server in a sandbox, through its preview."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from importlib.metadata import version

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.client import Client, wait_for
from tests.previews import expose, serve

PORT = 8765
MAX_BYTES = 1 << 20
DEADLINE_S = 60.0
INSTALL_MS = 60_000

ECHO = """
import asyncio
from websockets.asyncio.server import serve

def plain(connection, request):
    return None if "Upgrade" in request.headers else connection.respond(200, "ready")

async def echo(connection):
    async for message in connection:
        if message == "close":
            await connection.close(4321, "as asked")
        await connection.send(message)

async def told(connection):
    try:
        await echo(connection)
    finally:
        await connection.wait_closed()
        with open("/tmp/closed", "a") as closed:
            print(connection.close_code, connection.close_reason, file=closed)

async def main():
    async with serve(told, "127.0.0.1", PORT, process_request=plain, max_size=1 << 21) as server:
        await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url(api: Client) -> Iterator[str]:
    api.sandbox("echo", network="egress")
    install = f"pip install --quiet websockets=={version('websockets')}"
    assert api.exec("echo", install, timeoutMs=INSTALL_MS)["exitCode"] == 0
    serve(api, "echo", f"PORT = {PORT}\n{ECHO}", PORT)
    yield expose(api, "echo", PORT)["url"]
    api.remove("echo")


def opened(url: str, compression: str | None = "deflate") -> connect:
    port = httpx.URL(url).port
    return connect(
        url.replace("http", "ws", 1),
        host="127.0.0.1",
        port=port,
        proxy=None,
        max_size=2 * MAX_BYTES,
        compression=compression,
    )


def test_ten_thousand_messages_come_back_in_order_on_several_connections(url: str) -> None:
    """Of one byte to a megabyte."""

    async def send(connection: ClientConnection, messages: list[bytes]) -> None:
        for message in messages:
            await connection.send(message)

    async def exchange(seed: int) -> None:
        chance = random.Random(seed)
        sizes = [MAX_BYTES if n % 200 == 0 else chance.randint(1, 4096) for n in range(2500)]
        messages = [chance.randbytes(size) for size in sizes]
        async with opened(url, compression=None) as connection:
            sending = asyncio.create_task(send(connection, messages))
            for message in messages:
                assert await connection.recv() == message
            await sending

    async def all_at_once() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*[exchange(seed) for seed in range(4)])

    asyncio.run(all_at_once())


def test_a_compressed_text_comes_back(url: str) -> None:
    async def exchange() -> str | bytes:
        async with opened(url) as connection:
            assert connection.response is not None
            assert "permessage-deflate" in connection.response.headers["Sec-WebSocket-Extensions"]
            await connection.send("größer " * 10_000)
            return await connection.recv()

    assert asyncio.run(exchange()) == "größer " * 10_000


def test_the_servers_close_code_reaches_the_client(url: str) -> None:
    async def exchange() -> tuple[int | None, str | None]:
        async with opened(url) as connection:
            await connection.send("close")
            with pytest.raises(ConnectionClosed):
                await connection.recv()
            return connection.close_code, connection.close_reason

    assert asyncio.run(exchange()) == (4321, "as asked")


def test_the_clients_close_code_reaches_the_server(url: str, api: Client) -> None:
    async def exchange() -> None:
        async with opened(url) as connection:
            await connection.close(4123, "enough")

    asyncio.run(exchange())

    wait_for(
        lambda: "4123 enough" in str(api.exec("echo", "cat /tmp/closed")["stdout"]),
        "the server knows",
    )
