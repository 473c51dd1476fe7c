"""How the web and the relays of other machines know each other: by certificates of one authority.

A directory holds what a program needs: `ca.pem`, the authority's certificate; `cert.pem` and
`key.pem`, its own. A relay's certificate is for the name of its node, the web's for `WEB_NAME`:
what speaks for the web can reach into sandboxes, and what speaks for a node cannot.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.contract.settings import InvalidSettings

WEB_NAME = "coldframe-web"


def relay_context(directory: Path) -> ssl.SSLContext:
    """For who listens; whoever comes has to show a certificate. Raises `InvalidSettings`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, directory)
    context.verify_mode = ssl.CERT_REQUIRED
    # Of no use on connections that are kept, and to the web they would look like an answer.
    context.num_tickets = 0
    return context


def web_context(directory: Path) -> ssl.SSLContext:
    """For who connects, and gives the node's id as the server's name. Raises `InvalidSettings`."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, directory)


def speaks_for_the_web(certificate: Mapping[str, Any] | None) -> bool:
    """Whether a certificate that the authority signed is the web's."""
    names = (certificate or {}).get("subjectAltName", ())
    return ("DNS", WEB_NAME) in names


def _context(protocol: int, directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(directory / "ca.pem")
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    except OSError as error:  # Also what is wrong with their content.
        raise InvalidSettings(f"COLDFRAME_TLS_DIR: {directory}: {error}") from error
    return context
