"""Packages from the registries, as anybody at a shell installs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client

INSTALL_MS = 100_000


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    assert api.sandbox("packages")["network"] == "egress"  # As it is by default.
    yield "packages"
    api.remove("packages")


@pytest.mark.parametrize(
    ("install", "use", "expected"),
    [
        (
            "pip install --quiet six==1.17.0",
            "python -c 'import six; print(six.__version__)'",
            "1.17.0\n",
        ),
        ("pip install --quiet cowsay==6.1", "cowsay -t moo | grep -c moo", "1\n"),
        (
            "mkdir -p app && cd app && npm install --silent is-number@7.0.0",
            "node -e \"console.log(require('is-number')(5))\"",
            "true\n",
        ),
        ("npm install --silent --global semver@7.7.2", "semver 1.2.3", "1.2.3\n"),
    ],
    ids=["pip", "pip-command", "npm", "npm-global"],
)
def test_a_package_can_be_installed_and_used(
    api: Client, box: str, install: str, use: str, expected: str
) -> None:
    installed = api.exec(box, install, timeoutMs=INSTALL_MS)
    used = api.exec(box, use)

    assert installed["exitCode"] == 0, installed["stderr"]
    assert used["stdout"] == expected
