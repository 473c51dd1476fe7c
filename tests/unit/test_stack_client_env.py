"""The file from which clients take the API's address and key."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

from stack.client_env import FILE_NAME, ClientEnv, ensure_client_env, find_key, new_key

URL = "http://127.0.0.1:8700"


def test_a_key_has_a_prefix_and_32_url_safe_characters() -> None:
    assert re.fullmatch(r"cf_[A-Za-z0-9_-]{32}", new_key())


def test_the_key_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    first = ensure_client_env(tmp_path, URL)

    second = ensure_client_env(tmp_path, "http://127.0.0.1:8701")

    assert second.api_key == first.api_key
    assert second.url == "http://127.0.0.1:8701"
    assert second.render() == (tmp_path / FILE_NAME).read_text()


def test_a_file_that_was_cut_off_gets_a_new_key(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(f"COLDFRAME_URL={URL}\nCOLDFRAME_API_KEY=cf_abc")

    made = ensure_client_env(tmp_path, URL)

    assert find_key((tmp_path / FILE_NAME).read_text()) == made.api_key


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    ensure_client_env(tmp_path, URL)

    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_a_shell_that_sources_it_passes_both_values_to_its_programs(tmp_path: Path) -> None:
    made = ensure_client_env(tmp_path, URL)

    seen = subprocess.run(
        ["sh", "-c", f". {tmp_path / FILE_NAME} && env"],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        timeout=10,
    ).stdout.splitlines()

    assert f"COLDFRAME_URL={URL}" in seen
    assert f"COLDFRAME_API_KEY={made.api_key}" in seen


def test_the_key_is_not_printed() -> None:
    client_env = ClientEnv(url=URL, api_key=new_key())

    assert client_env.api_key not in repr(client_env)
