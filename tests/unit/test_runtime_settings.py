"""The runtime's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_runtime.settings import Settings, SettingsError


def test_without_variables_the_settings_are_those_of_the_image() -> None:
    settings = Settings.from_env({})

    assert settings.socket == Path("/run/coldframe/runtime.sock")
    assert (settings.uid, settings.gid) == (1000, 1000)
    assert settings.cgroup == Path("/cg")


def test_an_empty_cgroup_means_none() -> None:
    assert Settings.from_env({"COLDFRAME_RUNTIME_CGROUP": ""}).cgroup is None


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {
                "COLDFRAME_RUNTIME_UID": "root",
                "COLDFRAME_RUNTIME_GID": "4294967295",
                "COLDFRAME_RUNTIME_HOME": "home",
            }
        )

    for name in ("UID", "GID", "HOME"):
        assert f"COLDFRAME_RUNTIME_{name} must be" in str(caught.value)
