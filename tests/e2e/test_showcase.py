"""What sandboxes are for: projects as people have them, installed, tested, built, served, seen."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.client import Client, Event, wait_for
from tests.previews import expose, looking_at
from tests.repositories import ServedRepository

BOX = "showcase"
INSTALL_MS = 100_000
DEADLINE_S = 20.0

EXPRESS_APP = """
const app = require('express')()
app.get('/api/:name', (request, response) => response.json({ hello: request.params.name }))
app.listen(3000, '127.0.0.1')
"""

VITE_PAGE = '<!doctype html><h1 id="title"></h1><script type="module" src="/main.js"></script>'


def vite_module(title: str) -> str:
    return (
        f"document.getElementById('title').textContent = '{title}'\n"
        "if (import.meta.hot) import.meta.hot.accept()\n"
    )


@pytest.fixture(scope="module")
def run(api: Client) -> Iterator[Runner]:
    api.sandbox(BOX, network="egress")
    yield Runner(api)
    api.remove(BOX)


class Runner:
    """Commands in the sandbox, of which each has to succeed."""

    def __init__(self, api: Client) -> None:
        self._api = api

    def __call__(self, command: str, stdin: str = "") -> str:
        # In a shell of its own: where it goes, the next one does not.
        done: Event = self._api.exec(BOX, f"({command})", stdin=stdin, timeoutMs=INSTALL_MS)
        assert done["exitCode"] == 0, done
        return str(done["stdout"])

    def in_background(self, command: str) -> None:
        self(f"({command}) > /tmp/log 2>&1 &")

    def write(self, path: str, text: str) -> None:
        self(f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)


def wait_until_shown(client: httpx.Client, path: str) -> None:
    wait_for(lambda: client.get(path).status_code == 200, f"{path} is shown")


def test_an_express_app_is_installed_started_and_seen(api: Client, run: Runner) -> None:
    run("mkdir express-app && cd express-app && npm install --silent express@5.1.0")
    run.write("express-app/app.js", EXPRESS_APP)
    run.in_background("cd express-app && node app.js")

    with looking_at(expose(api, BOX, 3000)["url"]) as preview:
        wait_until_shown(preview, "/api/world")
        answer = preview.get("/api/world")

    assert answer.json() == {"hello": "world"}
    assert answer.headers["X-Powered-By"] == "Express"


def test_a_repository_is_cloned_tested_and_built(
    run: Runner, repository_url: ServedRepository
) -> None:
    run(f"git clone --quiet {repository_url.url} cloned")

    run("cd cloned && python3 -m unittest 2>&1")
    run("cd cloned && python3 -m zipfile -c build.zip greeting.txt test_it.py")

    assert "greeting.txt" in run("cd cloned && python3 -m zipfile -l build.zip")
    assert run("git -C cloned rev-parse HEAD").strip() == repository_url.commit


def test_a_page_of_a_development_server_is_told_of_a_change_as_it_is_written(
    api: Client, run: Runner
) -> None:
    """By Vite's own protocol, as the script in its page speaks it."""
    run("mkdir vite-app && cd vite-app && npm install --silent vite@6.3.5")
    run.write("vite-app/index.html", VITE_PAGE)
    run.write("vite-app/main.js", vite_module("before"))
    run.in_background("cd vite-app && npx vite --host 127.0.0.1 --port 5173")

    url = expose(api, BOX, 5173)["url"]
    with looking_at(url) as preview:
        wait_until_shown(preview, "/main.js")
        assert "before" in preview.get("/main.js").text
        (token,) = re.findall(r'wsToken = "([^"]+)"', preview.get("/@vite/client").text)
        assert "/@vite/client" in preview.get("/").text

        told = asyncio.run(_changes(url, token, run))

        assert [update["path"] for update in told["updates"]] == ["/main.js"]
        assert "after" in preview.get("/main.js").text


async def _changes(url: str, token: str, run: Runner) -> Event:
    """What the page is told when a file is written."""
    async with asyncio.timeout(DEADLINE_S):
        async with connect(
            f"{url.replace('http', 'ws', 1)}?token={token}",
            host="127.0.0.1",
            port=httpx.URL(url).port,
            origin=None,
            proxy=None,
            subprotocols=[Subprotocol("vite-hmr")],
        ) as page:
            assert json.loads(await page.recv()) == {"type": "connected"}
            await asyncio.to_thread(run.write, "vite-app/main.js", vite_module("after"))
            while True:
                event: Event = json.loads(await page.recv())
                if event["type"] in ("update", "full-reload"):
                    return event
