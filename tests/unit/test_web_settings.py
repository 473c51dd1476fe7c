"""The web's settings."""

from __future__ import annotations

import pytest

from web.settings import Settings
from workers.contract.settings import InvalidSettings


def test_the_key_is_all_that_must_be_set() -> None:
    settings = Settings.from_env({"COLDFRAME_API_KEY": "k"})

    assert (settings.host, settings.port, settings.flower_socket) == ("127.0.0.1", 8700, None)


def test_the_key_is_never_printed() -> None:
    settings = Settings.from_env({"COLDFRAME_API_KEY": "cf_very_secret"})

    assert "cf_very_secret" not in repr(settings)
    assert "***" in repr(settings)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_env({"COLDFRAME_PORT": "http", "COLDFRAME_MAX_READERS": "0"})

    message = str(caught.value)
    assert all(name in message for name in ("PORT", "MAX_READERS"))


def test_without_a_limit_a_waiting_request_is_held_as_long_as_its_job_may_take() -> None:
    settings = Settings.from_env({"COLDFRAME_API_KEY": "k", "COLDFRAME_WAIT_LIMIT_S": ""})

    assert settings.wait_limit_s is None
