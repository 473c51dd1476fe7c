"""What environment user code starts with."""

from __future__ import annotations

from pathlib import Path

from workers.drivers.user_environment import (
    CA_BUNDLE_MOUNT,
    parse_image_environment,
    user_environment,
    write_user_environment,
)
from workers.sandbox_directory import SandboxDirectory


def test_an_images_variables_are_the_users_but_for_those_that_say_who_he_is() -> None:
    image = {"JAVA_HOME": "/opt/java", "HOME": "/root", "USER": "root", "LANG": "de_DE.UTF-8"}

    environment = user_environment(image, with_certificates=False)

    assert environment["JAVA_HOME"] == "/opt/java"
    assert environment["LANG"] == "de_DE.UTF-8"
    assert (environment["HOME"], environment["USER"]) == ("/home/sandbox", "sandbox")


def test_what_the_user_installs_goes_before_what_the_image_has() -> None:
    ours = user_environment({}, with_certificates=False)
    theirs = user_environment({"PATH": "/opt/java/bin:/bin"}, with_certificates=False)

    assert ours["PATH"] == "/home/sandbox/.local/bin:/usr/local/bin:/usr/bin:/bin"
    assert theirs["PATH"] == "/home/sandbox/.local/bin:/opt/java/bin:/bin"


def test_certificates_are_named_where_they_are_mounted_and_nowhere_else() -> None:
    image = {"SSL_CERT_FILE": "/image/own.pem"}

    mounted = user_environment(image, with_certificates=True)
    not_mounted = user_environment(image, with_certificates=False)

    assert mounted["SSL_CERT_FILE"] == mounted["PIP_CERT"] == CA_BUNDLE_MOUNT
    assert not_mounted["SSL_CERT_FILE"] == "/image/own.pem"
    assert "PIP_CERT" not in not_mounted


def test_an_images_configuration_is_read_a_variable_a_line() -> None:
    assert parse_image_environment(["A=1", "B=x=y", "C=", "broken"]) == {
        "A": "1",
        "B": "x=y",
        "C": "",
    }


def test_a_value_of_several_lines_does_not_become_variables_of_its_own(tmp_path: Path) -> None:
    directory = SandboxDirectory(tmp_path, "box")
    directory.run.mkdir(parents=True)

    write_user_environment(directory, {"A": "1", "EVIL": "x\nLD_PRELOAD=/x", "B": "2"})

    assert (directory.run / "user-env").read_text() == "A=1\nB=2\n"
