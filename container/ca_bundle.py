"""Finds the certificate bundle that sandboxes trust."""

from pathlib import Path

from container.errors import BuildInputsInvalid

SETTING = "COLDFRAME_CA_BUNDLE"
HOST_BUNDLE = Path(
    "/etc/ssl/certs/ca-certificates.crt"
)  # Debian's place; a sandbox trusts what its host trusts


def find_ca_bundle(configured: str | None) -> Path | None:
    """The operator's choice, else the host's own bundle; None: neither, so Debian's own is used."""
    if configured:
        return Path(configured)
    return HOST_BUNDLE if HOST_BUNDLE.is_file() else None


def read_ca_bundle(path: Path | None) -> bytes:
    """The bundle's PEM text, empty where there is none."""
    if path is None:
        return b""
    hint = f"Set {SETTING} to a readable PEM file, or unset it to use the host's own bundle."
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise BuildInputsInvalid(
            f"The CA bundle {path} cannot be read: {error.strerror}.", hint=hint
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise BuildInputsInvalid(f"The CA bundle {path} holds no certificate.", hint=hint)
    return pem
