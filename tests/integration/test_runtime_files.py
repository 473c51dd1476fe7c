"""Files as the web asks for them: over the runtime's socket, on a real file system."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox_runtime.protocol.requests import ExecRequest
from tests.running_runtime import IS_ROOT, TOKEN, RunningRuntime, running_runtime, wait_until

Json = dict[str, Any]

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime(confined=IS_ROOT) as runtime:
        yield runtime


@pytest.fixture
def directory(runtime: RunningRuntime, request: pytest.FixtureRequest) -> Path:
    """An empty one of the user's."""
    path = runtime.own_directory(request)
    runtime.as_user(f"mkdir {path}")
    return path


def read(http: httpx.Client, path: object, **headers: str) -> httpx.Response:
    return http.get("/files", params={"path": str(path)}, headers=headers)


def write(http: httpx.Client, path: object, content: bytes, **query: str | int) -> Json:
    answer = http.put("/files", params={"path": str(path), **query}, content=content)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ask(http: httpx.Client, verb: str, path: object, **fields: object) -> Json:
    answer = http.post(f"/files/{verb}", json={"path": str(path), **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def listed(http: httpx.Client, path: object, **query: str | int) -> Json:
    answer = http.get("/files/list", params={"path": str(path), **query})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def names(listing: Json) -> list[str]:
    return [one["name"] for one in listing["files"]]


@pytest.mark.parametrize("size", [0, 5, 256 * 1024, 3 * MEGABYTE + 1])
def test_a_file_is_read_as_it_was_written_byte_by_byte(
    http: httpx.Client, directory: Path, size: int
) -> None:
    content = os.urandom(size)

    entry = write(http, directory / "file", content)
    answer = read(http, directory / "file")

    assert entry["size"] == size
    assert answer.content == content
    assert (directory / "file").read_bytes() == content


@pytest.mark.parametrize(
    "name", ["$(touch x)", "`id`", "a 'b\" c", "-rf", "n\nl", "x -> y", "é\t∞"]
)
def test_a_name_is_taken_literally_whatever_is_in_it(
    http: httpx.Client, directory: Path, name: str
) -> None:
    write(http, directory / name, b"1")

    assert names(listed(http, directory)) == [name]
    assert read(http, directory / name).content == b"1"
    http.delete("/files", params={"path": str(directory / name)}).raise_for_status()
    assert list(directory.iterdir()) == []


def test_a_name_that_is_not_utf_8_round_trips(http: httpx.Client, directory: Path) -> None:
    raw = os.fsencode(directory) + b"/\xff\xfe"
    query = {"path": base64.b64encode(raw).decode(), "pathEncoding": "base64"}

    http.put("/files", params=query, content=b"x").raise_for_status()
    (entry,) = listed(http, directory)["files"]

    assert entry["name"] == "\ufffd\ufffd"
    assert base64.b64decode(entry["pathBase64"]) == raw
    assert http.get("/files", params=query).content == b"x"


def test_parents_are_made_with_the_users_umask(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    write(http, directory / "a/b/file", b"")

    assert runtime.as_user("stat -c %a:%u a a/b a/b/file", directory).split() == [
        f"755:{runtime.uid}",
        f"755:{runtime.uid}",
        f"644:{runtime.uid}",
    ]


def test_a_relative_path_is_looked_for_where_the_sessions_shell_is(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.run(ExecRequest(command=f"cd {directory}"))

    write(http, "here", b"1")

    assert (directory / "here").read_bytes() == b"1"


def test_a_file_keeps_its_mode_when_it_is_overwritten(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("echo old > run; chmod 750 run", directory)

    write(http, directory / "run", b"new")

    assert f"{(directory / 'run').stat().st_mode & 0o7777:o}" == "750"
    assert write(http, directory / "run", b"new", mode="0600")["mode"] == "0600"


def test_who_has_a_file_open_while_it_is_overwritten_reads_the_old_one(
    http: httpx.Client, directory: Path
) -> None:
    write(http, directory / "file", b"old")

    with (directory / "file").open() as reader:
        write(http, directory / "file", b"new content")

        assert reader.read() == "old"


def test_a_link_is_written_through_and_stays(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("ln -s other/file link; ln -s b a; ln -s a b", directory)

    write(http, directory / "link", b"through")
    looped = http.put("/files", params={"path": f"{directory}/a"}, content=b"")

    assert (directory / "link").is_symlink()
    assert (directory / "other/file").read_bytes() == b"through"
    assert refused(looped) == (403, "permission_denied")


def test_what_is_appended_stands_behind_the_rest(http: httpx.Client, directory: Path) -> None:
    large = os.urandom(MEGABYTE)

    write(http, directory / "log", b"one\n", append=True)
    write(http, directory / "log", b"two\n", append=True)
    write(http, directory / "log", large, append=True)

    assert (directory / "log").read_bytes() == b"one\ntwo\n" + large


def test_an_upload_that_breaks_off_leaves_the_old_file_and_nothing_else(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    write(http, directory / "file", b"old")
    head = (
        f"PUT /files?path={directory}/file HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: {100 * MEGABYTE}\r\n\r\n"
    )

    with socket.socket(socket.AF_UNIX) as cut:
        cut.connect(str(runtime.socket))
        cut.sendall(head.encode() + bytes(MEGABYTE))
        wait_until(lambda: len(list(directory.iterdir())) == 2)

    wait_until(lambda: len(list(directory.iterdir())) == 1)
    assert (directory / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=4-", 206, b"456789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=8-99999", 206, b"89"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=5-2", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_a_range_is_answered_with_that_part(
    http: httpx.Client, directory: Path, asked: str, status: int, expected: bytes
) -> None:
    write(http, directory / "file", b"0123456789")

    answer = read(http, directory / "file", Range=asked)

    assert (answer.status_code, answer.content) == (status, expected)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0", "bytes=99-100"])
def test_a_range_behind_the_end_is_refused(http: httpx.Client, directory: Path, asked: str) -> None:
    write(http, directory / "file", b"0123456789")

    assert refused(read(http, directory / "file", Range=asked)) == (416, "range_not_satisfiable")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.png", b"\x89PNG", "image/png"),
        ("a.html", b"<p>", "text/html"),
        ("notes", "für".encode(), "text/plain"),
        ("notes", b"\x00\x01", "application/octet-stream"),
        ("notes", b"\xff\xfe", "application/octet-stream"),
        ("notes", b"", "text/plain"),
    ],
)
def test_a_files_type_is_told_by_its_name_or_else_by_its_content(
    http: httpx.Client, directory: Path, name: str, content: bytes, kind: str
) -> None:
    write(http, directory / name, content)

    assert read(http, directory / name).headers["content-type"] == kind


def test_listing_leaves_hidden_files_out_unless_they_are_asked_for(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("mkdir d; echo 12 > f; ln -s /etc/hosts l; touch .h", directory)

    visible = listed(http, directory)["files"]

    assert [(one["name"], one["type"]) for one in visible] == [
        ("d", "directory"),
        ("f", "file"),
        ("l", "symlink"),
    ]
    assert (visible[1]["size"], visible[1]["mode"]) == (3, "0644")
    assert visible[2]["target"] == "/etc/hosts"
    assert names(listed(http, directory, hidden=True)) == [".h", "d", "f", "l"]


def test_a_long_listing_comes_page_by_page(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("touch $(seq -f %03g 250)", directory)
    found, cursor = [], None

    while True:
        page = listed(http, directory, limit=100, **({"cursor": cursor} if cursor else {}))
        found += names(page)
        cursor = page.get("nextCursor")
        if cursor is None:
            break

    assert found == [f"{number:03}" for number in range(1, 251)]


def tree(http: httpx.Client, path: object, **query: str | int) -> list[str]:
    """What is below, by all pages."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = listed(http, path, recursive=True, **query, **cursor)
        found += [one["relativePath"] for one in page["files"]]
        if "nextCursor" not in page:
            return found
        assert len(page["files"]) == query["limit"]
        cursor = {"cursor": page["nextCursor"]}


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1000])
def test_a_tree_is_listed_in_pages_of_any_size(
    http: httpx.Client, directory: Path, runtime: RunningRuntime, limit: int
) -> None:
    runtime.as_user(
        "mkdir -p a/b/c a.d closed/x .h; touch a/b/1 a/b/c/2 a/z a.d/3 .h/4 'e f';"
        " ln -s .. a/up; chmod 0 closed",
        directory,
    )
    visible = ["a", "a/b", "a/b/1", "a/b/c", "a/b/c/2", "a/up", "a/z", "a.d", "a.d/3"]

    assert tree(http, directory, limit=limit) == [*visible, "closed", "e f"]
    hidden = tree(http, directory, limit=limit, hidden=True)
    assert hidden == [".h", ".h/4", *visible, "closed", "e f"]
    whole = listed(http, directory, recursive=True)["files"]
    assert [one["path"] for one in whole][:2] == [f"{directory}/a", f"{directory}/a/b"]


def test_a_listing_goes_on_behind_an_entry_that_has_gone(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("mkdir -p a/b; touch a/b/1 a/b/2 a/c d", directory)
    cursor = listed(http, directory, recursive=True, limit=3)["nextCursor"]

    runtime.as_user("rm -r a/b", directory)

    rest = listed(http, directory, recursive=True, cursor=cursor)["files"]
    assert [one["relativePath"] for one in rest] == ["a/c", "d"]
    no_directory = http.get("/files/list", params={"path": f"{directory}/d", "recursive": True})
    assert refused(no_directory) == (400, "not_a_directory")


def test_times_have_a_zone(http: httpx.Client, directory: Path, runtime: RunningRuntime) -> None:
    runtime.as_user(
        "touch -d '2001-02-03 04:05:06.5 UTC' old; touch -d @99999999999999 far", directory
    )

    far, old = (
        datetime.fromisoformat(one["modifiedAt"]) for one in listed(http, directory)["files"]
    )

    assert old.isoformat() == "2001-02-03T04:05:06.500000+00:00"
    assert far.utcoffset() == timedelta(0)


def test_what_exists_is_told_without_an_error(http: httpx.Client, directory: Path) -> None:
    write(http, directory / "file", b"")

    def exists(path: object) -> object:
        return http.get("/files/exists", params={"path": str(path)}).json()["exists"]

    assert exists(directory / "file") is True
    assert exists(directory) is True
    assert exists(directory / "file/below") is False
    assert exists("/root/secret") is False


def test_a_directory_is_made_once_or_with_its_parents(http: httpx.Client, directory: Path) -> None:
    once = ask(http, "mkdir", directory / "d")
    again = http.post("/files/mkdir", json={"path": f"{directory}/d"})
    orphan = http.post("/files/mkdir", json={"path": f"{directory}/x/y"})
    with_parents = ask(http, "mkdir", directory / "x/y", recursive=True)
    ask(http, "mkdir", directory / "x/y", recursive=True)

    assert (once["type"], once["mode"]) == ("directory", "0755")
    assert refused(again) == (409, "file_exists")
    assert refused(orphan) == (404, "file_not_found")
    assert with_parents["name"] == "y"


def test_a_directory_is_deleted_only_where_that_is_asked_for(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("mkdir -p d/e; touch d/f; ln -s /etc d/e/link", directory)

    plain = http.delete("/files", params={"path": f"{directory}/d"})
    still_there = sorted(one.name for one in (directory / "d").iterdir())
    recursive = http.delete("/files", params={"path": f"{directory}/d", "recursive": True})

    assert refused(plain) == (409, "is_directory")
    assert still_there == ["e", "f"]
    assert recursive.status_code == 204
    assert list(directory.iterdir()) == []
    assert Path("/etc/hosts").exists()


def test_a_tree_of_3000_levels_is_deleted(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    deep = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
    runtime.as_user(f'python3 -c "{deep}"', directory)

    answer = http.delete("/files", params={"path": f"{directory}/d", "recursive": True})

    assert answer.status_code == 204, answer.text
    assert list(directory.iterdir()) == []


def test_what_the_sandbox_is_made_of_is_not_deleted(
    http: httpx.Client, runtime: RunningRuntime
) -> None:
    for path in ("/", str(runtime.workspace), str(runtime.home), "/proc", "/etc"):
        answer = http.delete("/files", params={"path": path, "recursive": True})

        assert refused(answer)[1] == "permission_denied", path
    assert runtime.workspace.exists()


def test_a_file_is_renamed_over_another(http: httpx.Client, directory: Path) -> None:
    write(http, directory / "new", b"new")
    write(http, directory / "old", b"old")

    entry = ask(http, "rename", directory / "new", to=f"{directory}/old")

    assert entry["path"] == f"{directory}/old"
    assert [one.read_bytes() for one in directory.iterdir()] == [b"new"]


def test_a_file_is_moved_into_a_directory(http: httpx.Client, directory: Path) -> None:
    write(http, directory / "file", b"1")
    ask(http, "mkdir", directory / "d")

    entry = ask(http, "move", directory / "file", to=f"{directory}/d/")
    ask(http, "move", directory / "d/file", to=str(directory))
    nowhere = http.post(
        "/files/move", json={"path": f"{directory}/file", "to": f"{directory}/none/"}
    )

    assert entry["path"] == f"{directory}/d/file"
    assert (directory / "file").read_bytes() == b"1"
    assert refused(nowhere) == (404, "file_not_found")


@pytest.mark.skipif(not IS_ROOT, reason="no second volume that is ours")
def test_a_file_is_moved_to_another_volume(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    write(http, directory / "file", b"1")
    elsewhere = runtime.as_user("mktemp -d -p /dev/shm").strip()

    try:
        ask(http, "move", directory / "file", to=elsewhere)

        assert Path(elsewhere, "file").read_bytes() == b"1"
        assert list(directory.iterdir()) == []
    finally:
        runtime.as_user(f"rm -r {elsewhere}")


@pytest.mark.parametrize("verb", ["rename", "move"])
def test_what_is_not_there_cannot_be_moved(http: httpx.Client, directory: Path, verb: str) -> None:
    answer = http.post(f"/files/{verb}", json={"path": f"{directory}/no", "to": f"{directory}/x"})

    assert refused(answer) == (404, "file_not_found")


def test_a_mode_is_changed(http: httpx.Client, directory: Path) -> None:
    write(http, directory / "run", b"")

    entry = ask(http, "chmod", directory / "run", mode="755")

    assert entry["mode"] == "0755"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("", 400, "name_invalid"),
        ("a\x00b", 400, "name_invalid"),
        ("x" * 5000, 400, "name_invalid"),
        ("x" * 300, 400, "name_invalid"),
        ("missing", 404, "file_not_found"),
        (".", 409, "is_directory"),
        ("/", 409, "is_directory"),
        ("~", 404, "file_not_found"),
        ("..%c0%afetc", 404, "file_not_found"),
        ("....//etc", 404, "file_not_found"),
        ("/dev/zero", 422, "not_a_file"),
        ("/dev/tty", 422, "not_a_file"),
    ],
)
def test_a_path_that_cannot_be_read_says_why(
    http: httpx.Client, path: str, status: int, code: str
) -> None:
    assert refused(read(http, path)) == (status, code)


def test_fifos_and_sockets_are_neither_read_nor_written_and_block_nobody(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user(
        "mkfifo fifo; python3 -c 'import socket; socket.socket(1).bind(\"socket\")'", directory
    )

    for name in ("fifo", "socket"):
        written = http.put("/files", params={"path": f"{directory}/{name}"}, content=b"x")

        assert refused(read(http, directory / name)) == (422, "not_a_file")
        assert refused(written) == (422, "not_a_file")


@pytest.mark.skipif(not IS_ROOT, reason="the user is who the runtime is")
def test_what_the_user_may_not_the_file_api_may_not(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("echo 1 > sealed; chmod 000 sealed; echo 1 > fixed; chmod 444 fixed", directory)
    secret = runtime.workspace.parent / "token"
    secret.chmod(0o600)

    for path in (secret, directory / "sealed", "/etc/shadow", runtime.socket.parent / "x"):
        assert refused(read(http, path)) == (403, "permission_denied"), path
    for path in (directory / "fixed", "/etc/passwd", "/etc/new", "/root/x"):
        answer = http.put("/files", params={"path": str(path)}, content=b"")
        assert refused(answer) == (403, "permission_denied"), path
    assert refused(http.get("/files/list", params={"path": "/root"}))[0] == 403
    assert Path("/etc/passwd").read_text().startswith("root:")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/mem",
        "/proc/self/environ",
        "/proc/self/maps",
        "/proc/thread-self/environ",
        "/proc/self/root/etc/hosts",
        "/proc/self/fd/0",
        "/proc/self/cwd/etc/hosts",
        "/proc/1/environ",
    ],
)
def test_the_runtimes_own_memory_and_files_are_out_of_reach(
    http: httpx.Client, directory: Path, runtime: RunningRuntime, path: str
) -> None:
    runtime.as_user(f"ln -s {path} link; ln -s /proc/self proc", directory)
    below = path.removeprefix("/proc/self/")

    for way in (path, directory / "link", directory / "proc" / below):
        for answer in (
            read(http, way),
            http.put("/files", params={"path": str(way)}, content=b"x"),
            http.post("/files/chmod", json={"path": str(way), "mode": "777"}),
        ):
            assert refused(answer) == (403, "permission_denied"), way
    assert refused(http.get("/files/list", params={"path": "/proc/self/fd"}))[0] == 403


def test_a_link_that_is_swapped_while_it_is_read_never_leads_to_what_is_the_runtimes(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    write(http, directory / "good", b"good")
    swap = "for i in $(seq 400); do ln -sfn /proc/self/environ l; ln -sfn good l; done"
    swapping = threading.Thread(target=runtime.as_user, args=(swap, directory))
    swapping.start()

    seen = set()
    while swapping.is_alive():
        answer = read(http, directory / "l")
        seen.add(answer.content if answer.is_success else refused(answer)[1])
    swapping.join()

    assert seen <= {b"good", "permission_denied", "file_not_found"}


def test_a_gigabyte_goes_up_and_down_in_constant_memory(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    piece = os.urandom(MEGABYTE)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def content() -> Iterator[bytes]:
        for _ in range(1024):
            sent.update(piece)
            yield piece

    before = runtime.rss_mb()
    query = {"path": f"{directory}/large"}
    http.put("/files", params=query, content=content(), timeout=60).raise_for_status()
    with http.stream("GET", "/files", params=query) as answer:
        for part in answer.iter_bytes():
            received.update(part)
    grown = runtime.peak_rss_mb() - before
    (directory / "large").unlink()

    assert received.digest() == sent.digest()
    assert grown < 32


@pytest.mark.skipif(not IS_ROOT, reason="takes a volume of its own")
def test_a_full_volume_is_told_and_nothing_of_the_file_stays(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    os.system(f"mount -t tmpfs -o size=2m,uid={runtime.uid} none {directory}")

    try:
        small = http.put("/files", params={"path": f"{directory}/s"}, content=bytes(MEGABYTE))
        large = http.put("/files", params={"path": f"{directory}/f"}, content=bytes(4 * MEGABYTE))

        assert small.status_code == 200
        assert refused(large) == (507, "disk_full")
        assert [one.name for one in directory.iterdir()] == ["s"]
    finally:
        os.system(f"umount {directory}")


def found(http: httpx.Client, path: object, pattern: str, **query: str | int) -> list[str]:
    answer = http.get("/files/find", params={"path": str(path), "pattern": pattern, **query})
    assert answer.status_code == 200, answer.text
    return [one["path"].removeprefix(f"{path}/") for one in answer.json()["files"]]


def search(http: httpx.Client, path: object, text: str, **query: str | int) -> Json:
    answer = http.get("/files/search", params={"path": str(path), "text": text, **query})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_link_is_moved_through_itself_and_over_one_that_leads_to_itself(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("mkdir d; ln -s d l; ln -s loop loop; echo 1 > f", directory)

    through = ask(http, "move", directory / "l", to=f"{directory}/l/x")
    over = ask(http, "move", directory / "f", to=f"{directory}/loop")

    assert (through["name"], through["target"]) == ("x", "d")
    assert (over["type"], over["size"]) == ("file", 2)
    assert runtime.as_user("ls -A . d; readlink d/x", directory).split() == (
        [".:", "d", "loop", "d:", "x", "d"]
    )


def test_files_are_found_by_name_and_by_path_in_any_depth_and_links_are_not_followed(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user(
        "mkdir -p a/b .git; touch x.py a/y.py a/b/z.py a/b/z.txt .git/c.py; ln -s .. a/loop",
        directory,
    )

    assert found(http, directory, "*.py") == ["x.py", "a/y.py", "a/b/z.py"]
    assert found(http, directory, "a/b/*") == ["a/b/z.py", "a/b/z.txt"]
    assert found(http, directory, "*", type="symlink") == ["a/loop"]
    assert ".git/c.py" in found(http, directory, "*.py", hidden=True)
    assert len(found(http, directory, "*", limit=2)) == 2


def test_text_is_found_with_its_line_and_column(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("printf 'one\\ntwo (x)\\nTWO' > a; printf 'two\\0' > binary", directory)

    literal = search(http, directory, "two (")
    expression = search(http, directory, "^t.o", regex=True, ignoreCase=True)

    assert literal["matches"] == [
        {"path": f"{directory}/a", "line": 2, "column": 1, "text": "two (x)"}
    ]
    assert [one["line"] for one in expression["matches"]] == [2, 3]
    assert len(search(http, directory / "a", "two")["matches"]) == 1
    truncated = search(http, directory, "o", limit=1)
    assert (len(truncated["matches"]), truncated["truncated"]) == (1, True)


def test_a_search_that_cannot_be_says_why(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    def refusal(verb: str, **query: str | int) -> tuple[int, str]:
        return refused(http.get(f"/files/{verb}", params=query))

    here = str(directory)
    assert refusal("search", path=here, text="(", regex=True) == (422, "invalid_request")
    assert refusal("search", path=f"{here}/no", text="x") == (404, "file_not_found")
    assert refusal("find", path=f"{here}/no", pattern="*") == (404, "file_not_found")
    assert refusal("find", path="/proc/self", pattern="*") == (403, "permission_denied")


def test_a_tree_of_3000_levels_is_searched(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    deep = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('end', 'w')"
    runtime.as_user(f'python3 -c "{deep}"', directory)

    assert len(found(http, directory, "end")) == 1
    http.delete("/files", params={"path": f"{directory}/d", "recursive": True}).raise_for_status()


def test_a_search_ends_when_its_caller_leaves(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    write(http, directory / "a", b"a" * 60)
    query: dict[str, str | bool] = {"path": str(directory), "text": "(a+)+$b", "regex": True}
    children = Path(f"/proc/{runtime.pid}/task/{runtime.pid}/children")
    before = children.read_text()

    with pytest.raises(httpx.ReadTimeout):
        http.get("/files/search", params=query, timeout=1)

    wait_until(lambda: children.read_text() == before)


def replaced(http: httpx.Client, path: object, text: str, by: str, **fields: object) -> Json:
    return ask(http, "replace", path, text=text, replacement=by, **fields)


def test_text_is_replaced_in_the_text_files_below_a_directory(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user(
        "mkdir a; printf 'old.\\r\\nold.\\377' > a/x.py; chmod 751 a/x.py;"
        " printf 'older' > y.py; printf 'old.' > z.txt; printf 'old.\\0' > b.py; ln -s z.txt l.py",
        directory,
    )

    answer = replaced(http, directory, "old.", r"new\1", pattern="*.py")

    assert answer == {
        "files": [{"path": f"{directory}/a/x.py", "count": 2}],
        "failed": [],
        "truncated": False,
    }
    assert (directory / "a/x.py").read_bytes() == b"new\\1\r\nnew\\1\xff"
    assert runtime.as_user("stat -c %a a/x.py; cat z.txt y.py", directory) == "751\nold.older"
    assert (directory / "b.py").read_bytes() == b"old.\0"


def test_a_regular_expression_replaces_with_its_groups(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    write(http, directory / "a", b"x = 1\nY = 2\n")
    fields: dict[str, object] = {"regex": True, "ignoreCase": True}

    answer = replaced(http, directory / "a", r"^([xy]) = (\d)$", r"\2 = \1", **fields)

    assert answer["files"] == [{"path": f"{directory}/a", "count": 2}]
    assert (directory / "a").read_bytes() == b"1 = x\n2 = Y\n"


def test_what_cannot_be_replaced_is_told_and_stays_as_it_was(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user(
        "printf word > kept; chmod 444 kept; head -c 16777216 /dev/zero | tr '\\0' w > long;"
        " echo word > long2; head -c 16777200 /dev/zero | tr '\\0' w >> long2",
        directory,
    )

    def refusal(path: object, **fields: object) -> tuple[int, str]:
        body = {"path": str(path), "text": "word", "replacement": "w" * 100, **fields}
        return refused(http.post("/files/replace", json=body))

    answer = replaced(http, directory, "word", "w" * 100)
    assert (answer["files"], answer["truncated"]) == ([], False)
    assert [(one["path"], one["code"]) for one in answer["failed"]] == [
        (f"{directory}/kept", "permission_denied"),
        (f"{directory}/long2", "file_too_large"),
    ]
    assert (directory / "kept").read_text() == "word"
    assert refusal(directory / "kept") == (403, "permission_denied")
    assert refusal(directory / "long2") == (413, "file_too_large")
    assert refusal(directory / "no") == (404, "file_not_found")
    assert refusal(directory, text="(", regex=True) == (422, "invalid_request")
    assert refusal(directory, text="w", regex=True, replacement=r"\9") == (422, "invalid_request")
    assert runtime.as_user("ls -A", directory).split() == ["kept", "long", "long2"]


@pytest.mark.parametrize("gzip", [False, True])
def test_a_directory_comes_as_an_archive_and_goes_back_as_one(
    http: httpx.Client, directory: Path, runtime: RunningRuntime, gzip: bool
) -> None:
    runtime.as_user("mkdir -p a/b a/empty; echo 1 > 'a/b/x y'; chmod 750 a/b/x*", directory)

    archive = http.get("/files/archive", params={"path": f"{directory}/a", "gzip": gzip})
    answer = http.put(
        "/files/archive", params={"path": f"{directory}/c/d"}, content=archive.content
    )

    assert answer.status_code == 204, answer.text
    assert runtime.as_user("diff -r a c/d && stat -c %a 'c/d/b/x y'", directory) == "750\n"
    missing = http.get("/files/archive", params={"path": f"{directory}/no"})
    assert refused(missing) == (404, "file_not_found")


def test_an_archive_that_nobody_reads_to_its_end_is_made_no_longer(
    http: httpx.Client, directory: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("truncate -s 2G large", directory)
    children = Path(f"/proc/{runtime.pid}/task/{runtime.pid}/children")
    before = children.read_text()

    with http.stream("GET", "/files/archive", params={"path": str(directory)}) as answer:
        next(answer.iter_raw(1024))

    wait_until(lambda: children.read_text() == before)


def test_what_is_no_archive_is_refused(http: httpx.Client, directory: Path) -> None:
    answer = http.put("/files/archive", params={"path": str(directory)}, content=b"x" * 9999)

    assert refused(answer) == (422, "archive_refused")
