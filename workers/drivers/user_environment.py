"""Says what environment user code starts with."""

from __future__ import annotations

from collections.abc import Mapping

from workers.contract.node_files import RUN_MOUNT
from workers.sandbox_directory import SandboxDirectory

FILE_NAME = "user-env"
MOUNTED = f"{RUN_MOUNT}/{FILE_NAME}"
"""Where the runtime reads it."""

CA_BUNDLE_MOUNT = "/etc/ssl/certs/ca-certificates.crt"

DEFAULTS = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "NPM_CONFIG_PREFIX": "/home/sandbox/.local",
    "NPM_CONFIG_FUND": "false",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
}
"""An image may say otherwise."""

ALWAYS = {
    "HOME": "/home/sandbox",
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "SHELL": "/bin/bash",
    "TMPDIR": "/var/tmp",
}

CERTIFICATES = dict.fromkeys(
    (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
    ),
    CA_BUNDLE_MOUNT,
)
"""Where the operator's certificates are mounted: for what does not look there by itself."""

NOT_BY_PROXY = "localhost,127.0.0.1,::1"

OWN_PROGRAMS = "/home/sandbox/.local/bin"
"""Where pip and npm put what the user installs: the root is read-only."""


def user_environment(
    image: Mapping[str, str], *, with_certificates: bool, proxy: str = ""
) -> dict[str, str]:
    """`image` is the environment that the image names; `proxy` an URL, or empty."""
    environment = {**DEFAULTS, **image, **ALWAYS}
    if with_certificates:
        environment |= CERTIFICATES
    if proxy:
        # Programs do not agree on how they are written.
        for name, value in (("http", proxy), ("https", proxy), ("no", NOT_BY_PROXY)):
            environment |= {f"{name}_proxy": value, f"{name}_proxy".upper(): value}
    if OWN_PROGRAMS not in environment["PATH"].split(":"):
        environment["PATH"] = f"{OWN_PROGRAMS}:{environment['PATH']}"
    return environment


def write_user_environment(directory: SandboxDirectory, environment: Mapping[str, str]) -> None:
    """For the runtime to read. A value of more than one line has no place there."""
    lines = [f"{name}={value}\n" for name, value in environment.items() if "\n" not in value]
    (directory.run / FILE_NAME).write_text("".join(lines))


def parse_image_environment(lines: list[str]) -> dict[str, str]:
    """The `KEY=VALUE` of an image's configuration."""
    return dict(line.split("=", 1) for line in lines if "=" in line)
