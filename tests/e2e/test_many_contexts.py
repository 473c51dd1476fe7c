"""Many code contexts of one sandbox at once: each cell gets its own output, and its own alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client

BOX = "many-contexts"
LANGUAGES = ("python",) * 8 + ("javascript",) * 4 + ("typescript",) * 4
RUNS = int(os.environ.get("COLDFRAME_TEST_RUNS", "15"))

CELLS = {
    "python": "print({0!r}); n = {1}; [{0!r}, n]",
    "javascript": "console.log('{0}'); var n = {1}; ['{0}', n]",
    "typescript": "console.log('{0}'); var n: number = {1}; ['{0}', n]",
}


@pytest.fixture(scope="module")
def contexts(api: Client) -> Iterator[list[tuple[str, str]]]:
    """Ids and languages."""
    api.sandbox(BOX, memoryMb=4096)

    def made(language: str) -> tuple[str, str]:
        answer = api.http.post(f"/v1/sandboxes/{BOX}/contexts", json={"language": language})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], language

    with ThreadPoolExecutor(len(LANGUAGES)) as pool:
        yield list(pool.map(made, LANGUAGES))
    api.remove(BOX)


def test_cells_of_many_contexts_at_once_get_their_own_output(
    api: Client, contexts: list[tuple[str, str]]
) -> None:
    def wrong(place: int) -> list[object]:
        context, language = contexts[place]
        found: list[object] = []
        for number in range(RUNS):
            said = f"{place}-{number}"
            run = api.code(BOX, CELLS[language].format(said, number), context=context)
            logs, results = run["logs"], run["results"]
            if (
                "".join(logs["stdout"]) != f"{said}\n"
                or [one.get("json") for one in results] != [[said, number]]
                or run["executionCount"] != number + 1
            ):
                found.append(run)
        return found

    with ThreadPoolExecutor(len(contexts)) as pool:
        assert [*filter(None, pool.map(wrong, range(len(contexts))))] == []
