"""Files through the API: in sandboxes, by calls that do not queue."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.client import Client, Event, wait_for
from tests.platform import Platform

BOX = "files"

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox(BOX, network="none", diskMb=2048)
    yield f"/v1/sandboxes/{BOX}/files"
    api.remove(BOX)


@pytest.fixture
def directory(api: Client, box: str, request: pytest.FixtureRequest) -> str:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    answer = api.http.post(f"{box}/mkdir", json={"path": f"/workspace/{name}"})
    assert answer.status_code == 200, answer.text
    return f"/workspace/{name}"


def put(api: Client, box: str, path: str, content: bytes) -> Event:
    answer = api.http.put(box, params={"path": path}, content=content)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def get(api: Client, box: str, path: str, **headers: str) -> httpx.Response:
    return api.http.get(box, params={"path": path}, headers=headers)


def ask(api: Client, box: str, verb: str, **body: Any) -> Event:
    answer = api.http.post(f"{box}/{verb}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def in_json(api: Client, box: str, path: str) -> Event:
    answer = get(api, box, path, Accept="application/json")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_what_is_written_is_what_commands_read_and_the_other_way_round(
    api: Client, box: str, directory: str
) -> None:
    put(api, box, f"{directory}/a", b"hello")
    found = api.exec(BOX, f"cd {directory}; wc -c < a; echo -n back > b")

    assert found["stdout"].strip() == "5"
    assert get(api, box, f"{directory}/b").content == b"back"
    assert get(api, box, "b").content == b"back"  # Where the session's shell is.


def test_text_and_bytes_go_in_json_too(api: Client, box: str, directory: str) -> None:
    every_byte = bytes(range(256))
    for name, content, encoding in (
        ("text", "SANDBOX_EOF\n$(touch x) ∞", "utf-8"),
        ("bytes", base64.b64encode(every_byte).decode(), "base64"),
        ("empty", "", "utf-8"),
    ):
        body = {"content": content, "encoding": encoding}
        answer = api.http.put(box, params={"path": f"{directory}/{name}"}, json=body)
        assert answer.status_code == 200, answer.text

        view = in_json(api, box, f"{directory}/{name}")

        assert (view["content"], view["encoding"]) == (content, encoding)
    assert get(api, box, f"{directory}/bytes").content == every_byte
    listing = api.http.get(f"{box}/list", params={"path": directory}).json()
    assert [one["name"] for one in listing["files"]] == ["bytes", "empty", "text"]


def test_what_is_no_base64_is_refused(api: Client, box: str, directory: str) -> None:
    body = {"content": "?", "encoding": "base64"}

    answer = api.http.put(box, params={"path": f"{directory}/x"}, json=body)

    assert refusal(answer) == (422, "invalid_field")


def test_a_picture_is_told_with_its_type(api: Client, box: str, directory: str) -> None:
    content = b"\x89PNG\r\n\x1a\n" + bytes(50)
    put(api, box, f"{directory}/p.png", content)

    view = in_json(api, box, f"{directory}/p.png")

    assert (view["mimeType"], view["encoding"], view["size"]) == ("image/png", "base64", 58)
    assert view["modifiedAt"].endswith("Z")


def test_ten_megabytes_come_back_in_json_as_they_were(
    api: Client, box: str, directory: str
) -> None:
    content = os.urandom(10 * MEGABYTE)
    body = {"content": base64.b64encode(content).decode(), "encoding": "base64"}

    api.http.put(box, params={"path": f"{directory}/x"}, json=body).raise_for_status()

    assert base64.b64decode(in_json(api, box, f"{directory}/x")["content"]) == content


def test_a_file_too_large_for_json_is_refused_and_comes_raw(
    api: Client, box: str, directory: str
) -> None:
    api.exec(BOX, f"truncate -s 17M {directory}/large")

    answer = get(api, box, f"{directory}/large", Accept="application/json")

    assert refusal(answer) == (413, "file_too_large")
    assert answer.json()["error"]["details"] == {
        "sizeBytes": 17 * MEGABYTE,
        "limitBytes": 16 * MEGABYTE,
    }
    part = get(api, box, f"{directory}/large", Range="bytes=-5")
    assert (part.status_code, part.content) == (206, bytes(5))
    assert (
        part.headers["content-range"] == f"bytes {17 * MEGABYTE - 5}-{17 * MEGABYTE - 1}/17825792"
    )


def test_a_gigabyte_goes_up_and_down(
    api: Client, box: str, directory: str, platform: Platform
) -> None:
    piece = os.urandom(MEGABYTE)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def content() -> Iterator[bytes]:
        for _ in range(1024):
            sent.update(piece)
            yield piece

    query = {"path": f"{directory}/large"}
    answer = api.http.put(box, params=query, content=content())
    assert answer.status_code == 200, answer.text
    with api.http.stream("GET", box, params=query) as download:
        for part in download.iter_bytes():
            received.update(part)

    assert answer.json()["size"] == 1024 * MEGABYTE
    assert received.digest() == sent.digest()


def test_an_upload_that_does_not_fit_is_refused_while_it_comes(
    api: Client, box: str, directory: str
) -> None:
    sent = 0

    def content() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(8 * 1024):
            sent += MEGABYTE
            yield bytes(MEGABYTE)

    answer = api.http.put(box, params={"path": f"{directory}/x"}, content=content())

    assert refusal(answer) == (507, "disk_full")
    listing = api.http.get(f"{box}/list", params={"path": directory, "hidden": True}).json()
    assert listing["files"] == []


def test_an_upload_that_breaks_off_leaves_nothing(
    api: Client, box: str, directory: str, platform: Platform
) -> None:
    address = urlsplit(platform.access.url)
    head = (
        f"PUT {box}?path={directory}/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
        f"Authorization: Bearer {platform.access.api_key}\r\n\r\n"
    )

    def names() -> list[str]:
        query = {"path": directory, "hidden": "true"}
        listing = api.http.get(f"{box}/list", params=query).json()
        return [one["name"] for one in listing["files"]]

    with socket.create_connection((address.hostname, address.port or 80)) as cut:
        cut.sendall(head.encode() + bytes(2 * MEGABYTE))
        wait_for(lambda: len(names()) == 1, "the upload to begin")

    wait_for(lambda: names() == [], "what came to be removed")


def test_a_missing_file_is_told_by_each_route(api: Client, box: str, directory: str) -> None:
    missing = f"{directory}/no"

    for answer in (
        get(api, box, missing),
        get(api, box, missing, Accept="application/json"),
        api.http.head(box, params={"path": missing}),
        api.http.delete(box, params={"path": missing}),
        api.http.get(f"{box}/list", params={"path": missing}),
        api.http.get(f"{box}/stat", params={"path": missing}),
        api.http.post(f"{box}/move", json={"path": missing, "to": f"{missing}2"}),
        api.http.post(f"{box}/chmod", json={"path": missing, "mode": "644"}),
    ):
        assert answer.status_code == 404
        assert not answer.content or answer.json()["error"]["code"] == "file_not_found"
    exists = api.http.get(f"{box}/exists", params={"path": missing})
    assert exists.json() == {"exists": False}


def test_head_tells_of_a_file_without_its_content(api: Client, box: str, directory: str) -> None:
    put(api, box, f"{directory}/x", b"12345")

    answer = api.http.head(box, params={"path": f"{directory}/x"})

    assert (answer.status_code, answer.headers["content-length"]) == (200, "5")


@pytest.mark.parametrize("path", ["", "a\x00b", "x" * 5000])
def test_a_path_that_cannot_be_is_a_bad_request(api: Client, box: str, path: str) -> None:
    assert refusal(get(api, box, path)) == (400, "name_invalid")


def test_a_session_that_is_not_there_is_told(api: Client, box: str) -> None:
    answer = api.http.get(box, params={"path": "x", "session": "nobody"})

    assert refusal(answer) == (404, "session_not_found")


def test_files_are_made_moved_and_deleted(api: Client, box: str, directory: str) -> None:
    put(api, box, f"{directory}/a b", b"1")
    ask(api, box, "mkdir", path=f"{directory}/d/e", recursive=True)
    ask(api, box, "rename", path=f"{directory}/a b", to=f"{directory}/c")
    moved = ask(api, box, "move", path=f"{directory}/c", to=f"{directory}/d/e/")
    changed = ask(api, box, "chmod", path=moved["path"], mode="755")
    refused = api.http.delete(box, params={"path": f"{directory}/d"})
    deleted = api.http.delete(box, params={"path": f"{directory}/d", "recursive": True})

    assert moved["path"] == f"{directory}/d/e/c"
    assert changed["mode"] == "0755"
    assert refusal(refused) == (409, "is_directory")
    assert deleted.status_code == 204
    assert api.exec(BOX, f"ls -A {directory}")["stdout"] == ""


@pytest.mark.parametrize("name", ['a"; x="b.html', "a\r\nX-Evil: 1.html", "∞.svg", "-rf"])
def test_a_page_of_a_sandboxes_is_an_attachment_whatever_its_name_is(
    api: Client, box: str, directory: str, name: str
) -> None:
    put(api, box, f"{directory}/{name}", b"<script>")

    headers = get(api, box, f"{directory}/{name}").headers

    assert headers["content-disposition"] == f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    assert headers["content-security-policy"] == "sandbox"
    assert headers["x-content-type-options"] == "nosniff"
    assert "x-evil" not in headers


def test_files_are_found_and_searched(api: Client, box: str, directory: str) -> None:
    put(api, box, f"{directory}/a/b.py", b"import this\n")

    found = api.http.get(f"{box}/find", params={"path": directory, "pattern": "*.py"}).json()
    matches = api.http.get(f"{box}/search", params={"path": directory, "text": "this"}).json()

    assert [one["path"] for one in found["files"]] == [f"{directory}/a/b.py"]
    assert [(one["line"], one["column"]) for one in matches["matches"]] == [(1, 8)]


def test_text_is_replaced(api: Client, box: str, directory: str) -> None:
    put(api, box, f"{directory}/a.py", b"old = 1\n")

    answer = ask(api, box, "replace", path=directory, text="old", replacement="new")

    assert answer["files"] == [{"path": f"{directory}/a.py", "count": 1}]
    assert get(api, box, f"{directory}/a.py").content == b"new = 1\n"


def test_a_directory_goes_from_one_place_to_another_as_an_archive(
    api: Client, box: str, directory: str
) -> None:
    put(api, box, f"{directory}/a/b c", b"1")

    archive = api.http.get(f"{box}/archive", params={"path": f"{directory}/a", "gzip": True})
    answer = api.http.put(
        f"{box}/archive", params={"path": f"{directory}/d"}, content=archive.content
    )

    assert answer.status_code == 204, answer.text
    assert get(api, box, f"{directory}/d/b c").content == b"1"
    assert archive.headers["content-disposition"].endswith("a.tar.gz")


def test_a_thousand_entries_are_listed(api: Client, box: str, directory: str) -> None:
    api.exec(BOX, f"cd {directory} && touch $(seq 1000)")

    listing = api.http.get(f"{box}/list", params={"path": directory}).json()

    assert len(listing["files"]) == 1000
