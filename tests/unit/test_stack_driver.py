"""Which driver a machine gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from container.errors import EngineUnavailable
from stack.driver import MARKER, ensure_driver
from stack.errors import DriverUnavailable
from stack.ports import free_port


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    # An engine that is named is never replaced by one that is installed. By TCP: of a Unix socket
    # where nobody listens the SDK forgets to close its end.
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")


def test_docker_that_was_asked_for_and_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable):
        ensure_driver("docker", state_dir=tmp_path, progress=_ignore)


def test_a_node_that_ever_used_docker_does_not_fall_back(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()

    with pytest.raises(DriverUnavailable, match="does not fall back"):
        ensure_driver("", state_dir=tmp_path, progress=_ignore)


def test_where_nothing_works_both_reasons_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho No permissions to create new namespace >&2\nexit 1\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    lines: list[str] = []

    with pytest.raises(DriverUnavailable, match="No permissions"):
        ensure_driver("", state_dir=tmp_path, progress=lines.append)

    assert any("No Docker engine answers" in line for line in lines)


def _ignore(_: str) -> None:
    pass
