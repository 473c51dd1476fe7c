"""docker-compose.yml and its image name what there is, and their secrets are new each time."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from container.build_context import SERVICE_PACKAGES, services_context
from stack.programs import FLOWER_FORGETS_WORKERS_S, FLOWER_KEPT_TASKS
from stack.settings import MIN_PASSWORD_LENGTH, RedisServiceSettings
from workers.contract.access import PROGRAMS, users_file
from workers.contract.settings import InvalidSettings

OF_OTHER_WAYS_TO_RUN_IT = {
    *("COLDFRAME_DRIVER", "COLDFRAME_LOCAL_PYTHON", "COLDFRAME_WAIT_LIMIT_S"),
    "COLDFRAME_LOCAL_NETWORK",
    # It has all on one host.
    *("COLDFRAME_RELAY_ADDRESS", "COLDFRAME_TLS_DIR"),
}
"""The file has no say in these."""


def test_the_image_holds_the_same_packages_whoever_builds_it(repository: Path) -> None:
    dockerfile = (repository / "container" / "services" / "Dockerfile").read_text()
    let_through = (repository / ".dockerignore").read_text()
    context = services_context(repository=repository, ca_pem=b"")

    copied = set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.M))
    sent = {path.partition("/")[0] for path in context.files if "/" in path}

    assert copied == sent == set(SERVICE_PACKAGES)
    assert copied < set(re.findall(r"^!(.+)$", let_through, re.M))


def test_a_setting_that_a_program_reads_is_passed_on(repository: Path) -> None:
    compose = (repository / "docker-compose.yml").read_text()
    read = {
        name
        for program in ("web", "workers", "workers/contract", "relay")
        for name in re.findall(
            r'"(COLDFRAME_[A-Z_]+)"', (repository / program / "settings.py").read_text()
        )
    }

    passed_on = set(re.findall(r"^ +(COLDFRAME_[A-Z_]+):", compose, re.M))

    assert read - passed_on - OF_OTHER_WAYS_TO_RUN_IT == set()


def test_flower_is_started_as_by_make_up(repository: Path) -> None:
    compose = (repository / "docker-compose.yml").read_text()

    assert f"--max_tasks={FLOWER_KEPT_TASKS}\n" in compose
    assert f"--purge_offline_workers={FLOWER_FORGETS_WORKERS_S}\n" in compose


def test_new_secrets_are_its_readers_alone_and_not_written_over(
    repository: Path, tmp_path: Path
) -> None:
    command = ["sh", str(repository / "container" / "services" / "new-env")]
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        subprocess.run([*command, str(file)], check=True, capture_output=True)

    again = subprocess.run([*command, str(files[0])], check=False, capture_output=True)

    secrets = [dict(line.split("=") for line in file.read_text().splitlines()) for file in files]
    values = [value for each in secrets for value in each.values()]
    assert len(values) == len(set(values)) == 2 * (len(PROGRAMS) + 1)
    assert files[0].stat().st_mode & 0o777 == 0o600
    assert again.returncode == 1
    names = [user.name for user in PROGRAMS]
    paths = {"COLDFRAME_REDIS_SOCKET": "/s", "COLDFRAME_STATE_DIR": "/d"}
    assert RedisServiceSettings.from_env(names, {**secrets[0], **paths}).passwords


def test_passwords_that_are_missing_or_can_be_guessed_are_refused() -> None:
    paths = {"COLDFRAME_REDIS_SOCKET": "/s", "COLDFRAME_STATE_DIR": "/d"}
    short = {"COLDFRAME_REDIS_WEB_PASSWORD": "x" * (MIN_PASSWORD_LENGTH - 1)}

    with pytest.raises(InvalidSettings, match="COLDFRAME_REDIS_RELAY_PASSWORD is not set"):
        RedisServiceSettings.from_env(["web", "relay"], {**paths, **short})
    with pytest.raises(InvalidSettings, match=r"COLDFRAME_REDIS_WEB_PASSWORD.*guessed"):
        RedisServiceSettings.from_env(["web"], {**paths, **short})


def test_no_password_is_in_the_file_of_users() -> None:
    passwords = {user: f"secret of {user.name}" for user in PROGRAMS}

    assert "secret" not in users_file(passwords)
