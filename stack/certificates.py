"""Makes the certificates by which the web and the relays of other machines know each other."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from stack.errors import CertificatesFailed
from stack.private_file import write_private

AUTHORITY = "authority"
WEB = "web"
WEB_NAME = "coldframe-web"
"""As `workers/contract/tls.py` has it."""

DAYS = "3650"


def make_certificates(directory: Path, name: str) -> Path:
    """A directory for the web (`web`) or a node, to be its COLDFRAME_TLS_DIR.

    The authority is made with the first, and stays in `directory`: who has its key can speak for
    everybody. Raises `CertificatesFailed`.
    """
    if shutil.which("openssl") is None:
        raise CertificatesFailed("openssl is not installed.", hint="apt-get install openssl")
    authority = directory / AUTHORITY
    if not (authority / "key.pem").exists():
        _make_authority(authority)
    made = directory / name
    made.mkdir(mode=0o700, parents=True, exist_ok=True)
    subject = WEB_NAME if name == WEB else name
    with tempfile.TemporaryDirectory() as scratch:
        request, extensions = Path(scratch) / "request", Path(scratch) / "extensions"
        extensions.write_text(f"subjectAltName=DNS:{subject}\n")
        key = _openssl("genpkey", "-algorithm", "ED25519")
        write_private(made / "key.pem", key)
        _openssl(
            *("req", "-new", "-key", made / "key.pem", "-subj", f"/CN={subject}", "-out", request)
        )
        certificate = _openssl(
            *("x509", "-req", "-in", request, "-days", DAYS, "-extfile", extensions),
            *("-CA", authority / "cert.pem", "-CAkey", authority / "key.pem", "-CAcreateserial"),
        )
    (made / "cert.pem").write_text(certificate)
    shutil.copyfile(authority / "cert.pem", made / "ca.pem")
    return made


def _make_authority(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(directory / "key.pem", _openssl("genpkey", "-algorithm", "ED25519"))
    certificate = _openssl(
        *("req", "-x509", "-key", directory / "key.pem", "-days", DAYS),
        *("-subj", "/CN=coldframe", "-addext", "keyUsage=critical,keyCertSign"),
    )
    (directory / "cert.pem").write_text(certificate)


def _openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise CertificatesFailed(
            f"openssl failed: {done.stderr.strip()}", hint="Is it OpenSSL 3 or later?"
        )
    return done.stdout
