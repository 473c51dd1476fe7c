"""Images of one's own: added on the node, and used through the platform."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from container.ca_bundle import find_ca_bundle
from container.engine import connect
from container.errors import ImageUnfit
from container.image import add_image, remove_image
from container.image_names import read_image_names
from tests.client import Client, Event, wait_for
from tests.conftest import DRIVER
from tests.platform import Platform

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local has no images")

PLAIN = """
FROM debian:bookworm-slim
ENV GREETING="good day" PATH=/opt/tool:/usr/bin:/bin HOME=/root
ENV LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libm.so.6
RUN mkdir /opt/tool && cd /opt/tool \\
    && printf '#!/bin/sh\\necho from the tool\\n' > tool && chmod 0755 tool
ENTRYPOINT ["/bin/false"]
USER 33
WORKDIR /nowhere
"""

# Nothing but one program, and no C library for others.
BARE = """
FROM debian:bookworm-slim AS tools
RUN apt-get update && apt-get install -y --no-install-recommends bash-static
FROM scratch
COPY --from=tools /bin/bash-static /bin/bash
"""

# What the README of any Jupyter kernel says, and nothing of ours.
WITH_BASH = """
FROM coldframe/sandbox:latest
RUN pip install bash_kernel==0.10.0 && python3 -m bash_kernel.install --prefix /usr/local
"""


class Node:
    """Adds images and waits until they can be asked for."""

    def __init__(self, platform: Platform, api: Client, directory: Path) -> None:
        self.state_dir = platform.state_dir
        self._api = api
        self._directory = directory
        self.told: list[str] = []

    def add(self, name: str, source: Path) -> None:
        add_image(
            name,
            source,
            state_dir=self.state_dir,
            ca_bundle=find_ca_bundle(None),
            progress=self.told.append,
        )
        wait_for(lambda: name in self.images(), "the node tells of its image")

    def add_dockerfile(self, name: str, dockerfile: str) -> None:
        directory = self._directory / name
        directory.mkdir()
        (directory / "Dockerfile").write_text(dockerfile)
        self.add(name, directory)

    def images(self) -> list[str]:
        (node,) = self._api.http.get("/v1/nodes").json()["nodes"]
        return list(node["images"])


@pytest.fixture(scope="module")
def node(
    platform: Platform, api: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    node = Node(platform, api, tmp_path_factory.mktemp("images"))
    yield node
    for name in set(node.images()) - {"default"}:
        remove_image(name, state_dir=node.state_dir)


@pytest.fixture(scope="module")
def plain(node: Node, api: Client) -> Iterator[str]:
    """A sandbox of an image without Python and git, whose settings are of no use to a sandbox."""
    node.add_dockerfile("plain", PLAIN)
    api.sandbox("plain", image="plain")
    yield "plain"
    api.remove("plain")


def test_a_sandbox_of_an_image_without_python_runs_commands_and_keeps_files(
    api: Client, plain: str
) -> None:
    api.exec(plain, "cd /workspace; echo kept > file")

    result = api.exec(plain, "pwd; cat file; id -un; touch /x 2>/dev/null || echo read-only")

    assert result["stdout"].split() == ["/workspace", "kept", "sandbox", "read-only"]


def test_user_code_gets_the_images_variables_and_a_home_of_its_own(api: Client, plain: str) -> None:
    result = api.exec(plain, "echo $GREETING; tool; echo $HOME; echo $LD_PRELOAD; echo $PATH")

    assert result["stdout"].splitlines() == [
        "good day",
        "from the tool",
        "/home/sandbox",
        "/usr/lib/x86_64-linux-gnu/libm.so.6",
        "/home/sandbox/.local/bin:/opt/tool:/usr/bin:/bin",
    ]


def test_what_an_image_lacks_is_told_when_it_is_added_and_when_it_is_needed(
    api: Client, node: Node, plain: str
) -> None:
    code = api.code(plain, "1 + 1")
    build = api.http.post(
        "/v1/builds",
        json={
            "repoUrl": "https://example.org/x.git",
            "steps": [{"name": "never", "commands": ["true"]}],
            "sandbox": {"image": "plain", "network": "none"},
        },
    ).json()

    assert code["error"]["code"] == "interpreter_missing"
    assert "python3" in code["error"]["message"]
    assert build["error"]["code"] == "git_missing"
    warnings = [line for line in node.told if line.startswith("WARNING")]
    assert [warning.rpartition(": ")[0].rpartition(": ")[2] for warning in warnings] == [
        "git",
        "python3",
    ]


def test_an_archive_is_built_in_an_image_of_ones_own(api: Client, plain: str, archive: str) -> None:
    result = api.http.post(
        "/v1/builds",
        json={
            "archive": archive,
            "steps": [{"name": "show", "commands": ["cat greeting.txt"]}],
            "sandbox": {"image": plain, "network": "none"},
        },
    ).json()

    assert result["conclusion"] == "success"


def test_the_runtime_needs_nothing_of_the_image_not_even_a_c_library(
    api: Client, node: Node
) -> None:
    node.add_dockerfile("bare", BARE)
    api.sandbox("bare", image="bare")

    result = api.exec("bare", "echo kept > file; echo *; echo $(<file); type -P ls sh")

    assert (result["stdout"], result["exitCode"]) == ("file\nkept\n", 1)
    api.remove("bare")


def test_a_saved_image_is_the_same_image_under_another_name(node: Node, tmp_path: Path) -> None:
    saved = tmp_path / "saved.tar"
    with saved.open("wb") as file, closing(connect()) as client:
        image = client.images.get(read_image_names(node.state_dir)["bare"])
        file.writelines(image.save())

    node.add("loaded", saved)

    names = read_image_names(node.state_dir)
    assert names["loaded"] == names["bare"]


def test_an_image_without_bash_is_refused_with_the_reason(node: Node, tmp_path: Path) -> None:
    empty = tmp_path / "empty.tar"
    with tarfile.open(empty, "w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))

    with pytest.raises(ImageUnfit, match="bash: No such file or directory"):
        node.add("empty", empty)

    assert "empty" not in node.images()


def test_an_image_with_volumes_is_refused(node: Node) -> None:
    with pytest.raises(ImageUnfit, match="/data"):
        node.add_dockerfile("voluminous", "FROM debian:bookworm-slim\nVOLUME /data\n")


def test_an_image_that_no_node_has_is_refused_with_the_names_that_there_are(api: Client) -> None:
    answer = api.http.put("/v1/sandboxes/never", json={"image": "unknown"})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "image_not_found")
    assert "default" in error["message"]
    assert api.http.get("/v1/sandboxes/never").status_code == 404


def test_an_image_adds_a_language_by_a_kernel_spec(api: Client, node: Node) -> None:
    node.add_dockerfile("shells", WITH_BASH)
    api.sandbox("shells", image="shells")

    first = api.code("shells", "x=5; cd /usr; echo $((x * 2)); echo e >&2", language="Bash")
    kept = api.code("shells", "echo $x; pwd", language="bash")
    failed = api.code("shells", "false", language="bash")
    cut = api.code("shells", "echo on; sleep 600", language="bash", timeoutMs=2000)
    after = api.code("shells", "echo $x", language="bash")
    # It tells each line by itself. ZeroMQ lets it forget what is over 1,000 that are not fetched.
    many = api.code("shells", "seq 500", language="bash")
    context = api.http.post(
        "/v1/sandboxes/shells/contexts",
        json={"language": "bash", "cwd": "/usr", "envVars": {"A": "1"}},
    ).json()
    own = api.code("shells", "echo $A $x; pwd", context=context["id"])
    unknown = api.http.post("/v1/sandboxes/shells/contexts", json={"language": "cobol"})

    assert printed(first).split() == ["10", "e"]
    assert printed(kept) == "5\n/usr\n"
    assert failed["conclusion"] == "failure"
    assert (cut["conclusion"], printed(cut).strip()) == ("timed_out", "on")
    assert (printed(after), after["executionCount"]) == ("5\n", 5)
    assert printed(many).split() == [str(number) for number in range(1, 501)]
    assert printed(own) == "1\n/usr\n"
    assert unknown.status_code == 422
    assert "bash" in unknown.json()["error"]["message"]
    api.remove("shells")


def printed(run: Event) -> str:
    return "".join(run["logs"]["stdout"])
