"""What sandboxes are for: projects as people have them, installed, tested, built, served, seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser import browsing
from tests.client import Client, Event, wait_for
from tests.previews import expose, looking_at
from tests.repositories import ServedRepository

BOX = "showcase"
INSTALL_MS = 100_000

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


@pytest.mark.timeout(600)  # The browser may have to be installed.
def test_a_page_in_a_browser_changes_when_a_file_is_written(
    api: Client, run: Runner, tmp_path: Path
) -> None:
    """Hot: the page is the same one, not loaded anew."""
    run("mkdir vite-app && cd vite-app && npm install --silent vite@6.3.5")
    run.write("vite-app/index.html", VITE_PAGE)
    run.write("vite-app/main.js", vite_module("before"))
    run.in_background("cd vite-app && npx vite --host 127.0.0.1 --port 5173")
    url = expose(api, BOX, 5173)["url"]
    with looking_at(url) as preview:
        wait_until_shown(preview, "/main.js")

    with browsing(url, tmp_path) as page:
        wait_for(lambda: page.run("title.textContent") == "before", "the page is shown")
        page.run("window.isTheSame = true")

        run.write("vite-app/main.js", vite_module("after"))

        wait_for(lambda: page.run("title.textContent") == "after", "the page has changed")
        assert page.run("window.isTheSame") is True
