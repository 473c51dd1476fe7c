"""The page that says which test proves what names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = "docs/security.md"


def test_every_test_that_is_named_is_there(repository: Path) -> None:
    missing = []
    for line in (repository / PAGE).read_text().splitlines():
        suite = "security"
        for named in re.findall(r"`((?:\w+/)?test_\w+\.py)`", line):
            suite = named.rpartition("/")[0] or suite
            path = repository / "tests" / suite / Path(named).name
            if not path.is_file():
                missing.append(str(path))

    assert missing == []


def test_each_case_has_one_row(repository: Path) -> None:
    rows = re.findall(r"^\| ([A-Z]\d+(?:, [A-Z]\d+)*) \|", (repository / PAGE).read_text(), re.M)
    cases = [case for row in rows for case in row.split(", ")]

    assert sorted(set(cases)) == sorted(cases)
    assert len(cases) > 40
