"""Which users a sandbox gets."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox_runtime.protocol.requests import USERS
from workers.user_blocks import FIRST_USER, UserBlock, claim


def directory(root: Path, name: str) -> Path:
    made = root / name
    made.mkdir()
    return made


def test_sandboxes_that_are_made_at_once_have_no_user_in_common(tmp_path: Path) -> None:
    directories = [directory(tmp_path, str(number)) for number in range(50)]

    with ThreadPoolExecutor(16) as pool:
        blocks = list(pool.map(claim, directories))

    users = [user for block in blocks for user in range(block.first, block.first + block.size)]
    assert len(set(users)) == 50 * USERS
    assert min(users) == FIRST_USER


def test_a_sandbox_keeps_its_users_when_its_node_starts_anew(tmp_path: Path) -> None:
    claim(directory(tmp_path, "other"))
    box = directory(tmp_path, "box")

    assert claim(box) == claim(box)


def test_users_are_taken_for_as_long_as_the_directory_is_there_even_without_a_state(
    tmp_path: Path,
) -> None:
    killed_while_made, removed, box = (directory(tmp_path, name) for name in ("a", "b", "c"))
    taken, given_back = claim(killed_while_made), claim(removed)
    shutil.rmtree(removed)

    assert claim(box) == given_back
    assert claim(directory(tmp_path, "d")).first not in (taken.first, given_back.first)


def test_each_user_has_a_name_and_the_first_ones_group_is_its_own() -> None:
    block = UserBlock(200_000, group=200_000, size=2)

    assert block.passwd().splitlines()[2:] == [
        "sandbox:x:200000:200000::/home/sandbox:/bin/bash",
        "session-1:x:200001:200001::/home/sandbox:/bin/bash",
    ]
    assert block.group_file().splitlines()[2:] == ["sandbox:x:200000:", "session-1:x:200001:"]
