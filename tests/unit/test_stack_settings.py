"""What an operator may decide about the platform on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.settings import StackSettings
from workers.contract.settings import InvalidSettings


def test_without_any_variable_it_listens_on_loopback_and_keeps_all_in_one_directory() -> None:
    settings = StackSettings.from_env({})

    assert settings.url == "http://127.0.0.1:8700"
    assert settings.state_dir == Path.cwd() / ".coldframe"
    assert settings.flower_socket.is_relative_to(settings.state_dir)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("10.0.0.7", "http://10.0.0.7:8700"),
        ("0.0.0.0", "http://127.0.0.1:8700"),
        ("::", "http://[::1]:8700"),
        ("::1", "http://[::1]:8700"),
    ],
)
def test_the_url_is_one_that_a_client_on_this_machine_can_use(host: str, url: str) -> None:
    assert StackSettings.from_env({"COLDFRAME_HOST": host}).url == url


def test_all_mistakes_are_told_at_once() -> None:
    environ = {"COLDFRAME_PORT": "http", "COLDFRAME_DRIVER": "podman", "COLDFRAME_TOUR": "maybe"}

    with pytest.raises(InvalidSettings) as told:
        StackSettings.from_env(environ)

    for name in environ:
        assert name in str(told.value)


def test_the_local_driver_is_for_loopback_only() -> None:
    with pytest.raises(InvalidSettings, match="loopback"):
        StackSettings.from_env({"COLDFRAME_DRIVER": "local", "COLDFRAME_HOST": "0.0.0.0"})


def test_a_nodes_name_cannot_leave_its_place_in_queue_names() -> None:
    with pytest.raises(InvalidSettings, match="COLDFRAME_NODE"):
        StackSettings.from_env({"COLDFRAME_NODE": "../node"})


def test_further_settings_are_passed_on_but_not_those_of_a_client() -> None:
    environ = {
        "COLDFRAME_RETENTION_S": "60",
        "COLDFRAME_API_KEY": "cf_x",
        "COLDFRAME_URL": "http://elsewhere",
        "PATH": "/usr/bin",
    }

    settings = StackSettings.from_env(environ)

    assert settings.passed_on == {"COLDFRAME_RETENTION_S": "60"}


def test_a_redis_url_with_its_password_is_not_printed() -> None:
    settings = StackSettings.from_env({"COLDFRAME_REDIS_URL": "redis://:secret@host:6379/0"})

    assert "secret" not in repr(settings)
