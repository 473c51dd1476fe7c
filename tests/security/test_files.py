"""In a real sandbox, the file API opens nothing that the sandbox's user could not open."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.client import Client

ROUNDS = 300


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox("nosy")
    yield "nosy"
    api.remove("nosy")


def read(api: Client, box: str, path: str) -> httpx.Response:
    return api.http.get(f"/v1/sandboxes/{box}/files", params={"path": path})


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/run/coldframe/token",
        "/workspace/../run/coldframe/token",
        "/proc/1/environ",
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/thread-self/fd/3",
        "to-the-token",
        "to-proc/environ",
    ],
)
def test_no_path_and_no_link_leads_to_what_the_user_may_not_read(
    api: Client, box: str, path: str
) -> None:
    api.exec(box, "ln -sfn /run/coldframe/token to-the-token; ln -sfn /proc/self to-proc")

    answer = read(api, box, path)

    assert answer.status_code in (403, 404, 422), answer.content


@pytest.mark.parametrize("path", ["/etc/passwd", "/opt/coldframe/x", "/run/coldframe/x", "/x"])
def test_no_path_leads_to_what_the_user_may_not_write(api: Client, box: str, path: str) -> None:
    answer = api.http.put(f"/v1/sandboxes/{box}/files", params={"path": path}, content=b"x")

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")


def test_a_link_that_is_swapped_all_the_time_never_leads_to_what_is_the_runtimes(
    api: Client, box: str
) -> None:
    swapping = "while :; do ln -sfn /run/coldframe d; ln -sfn real d; done"
    api.exec(box, f"mkdir -p real; echo mine > real/token; (bash -c '{swapping}' &) 2>&-; true")

    told = [read(api, box, "d/token") for _ in range(ROUNDS)]
    api.http.delete(f"/v1/sandboxes/{box}/sessions/default")

    shown = {answer.text for answer in told if answer.status_code == 200}
    assert shown <= {"mine\n"}
    assert shown or all(answer.status_code == 403 for answer in told)
