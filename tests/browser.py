"""A real browser, Debian's Chromium, told by its DevTools protocol what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from container import debian_packages
from container.errors import PackagesUnavailable
from tests.client import wait_for

PACKAGE = "chromium"
END_TIMEOUT_S = 10.0


class Page:
    """The one page of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._asked = 0

    def run(self, expression: str) -> Any:
        """The value of an expression of the page's own script; None where it fails."""
        self._asked += 1
        parameters = {"expression": expression, "returnByValue": True}
        asked = {"id": self._asked, "method": "Runtime.evaluate", "params": parameters}
        self._connection.send(json.dumps(asked))
        while True:
            answer = json.loads(self._connection.recv(timeout=END_TIMEOUT_S))
            if answer.get("id") == self._asked:
                return answer["result"]["result"].get("value")


@contextmanager
def browsing(url: str, directory: Path) -> Iterator[Page]:
    """A browser that shows `url`, with a profile of its own in `directory`."""
    chromium = _installed()
    profile = directory / "profile"
    told = profile / "DevToolsActivePort"
    arguments = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}"),
    ]
    with (directory / "log").open("wb") as log:
        browser = subprocess.Popen([chromium, *arguments, url], stdout=log, stderr=log)
    try:
        wait_for(lambda: told.exists() and told.read_text(), "the browser listens")
        port = told.read_text().split()[0]
        with connect(_address_of_page(port), proxy=None, max_size=None) as connection:
            yield Page(connection)
    finally:
        browser.terminate()
        browser.wait(END_TIMEOUT_S)


def _address_of_page(port: str) -> str:
    shown: list[dict[str, str]] = []

    def is_there() -> bool:
        targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
        shown[:] = [target for target in targets if target["type"] == "page"]
        return bool(shown)

    wait_for(is_there, "the browser has a page")
    return shown[0]["webSocketDebuggerUrl"]


def _installed() -> str:
    if shutil.which(PACKAGE) is None:
        try:
            debian_packages.install([PACKAGE], progress=print)
        except PackagesUnavailable as error:
            pytest.skip(str(error))
    found = shutil.which(PACKAGE)
    assert found is not None
    return found
