"""Says which URLs, names and paths may be given to git, and takes the credentials out of them.

What git is given could otherwise be an option, or have it start a program of the URL's choice.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from sandbox_runtime.protocol.errors import (
    CheckoutFailed,
    InvalidRepositoryUrl,
    InvalidRequest,
    RefNotFound,
)

REMOTE_SCHEMES = ("https", "http", "git", "ssh")
TOKEN_SCHEMES = ("https", "http")

MAX_URL_CHARS = 4096

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCP_LIKE = re.compile(r"(?:[\w.][\w.+-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*:(?![:/]{2})[^-:][^:]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[?[0-9A-Fa-f:.]+\]?")
_SERVER = re.compile(r"(?:https?://)?(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::\d+)?")
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/]*@")


class Login(NamedTuple):
    """A name and a password, and the one server that they are for, as `https://host:port`."""

    server: str
    username: str
    password: str


class Origin(NamedTuple):
    """What git is given to clone or to fetch from."""

    url: str
    """Without credentials."""
    is_local: bool
    """It is a path in the sandbox."""
    login: Login | None = None
    """The credentials that were in the URL."""

    @property
    def protocols(self) -> str:
        """Those that git may use for it, as `GIT_ALLOW_PROTOCOL` has them."""
        return "file" if self.is_local else ":".join(REMOTE_SCHEMES)

    @property
    def server(self) -> str | None:
        """Whom a token is for; None where the URL is not of http."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}" if scheme in TOKEN_SCHEMES else None

    @property
    def name(self) -> str:
        """The repository's, by the last part of its path."""
        path = urlsplit(self.url).path if "://" in self.url else self.url.rpartition(":")[2]
        return posixpath.basename(path.rstrip("/")).removesuffix(".git")


def origin_of(url: str, workspace: Path) -> Origin:
    """What git may be given for a URL. Raises `InvalidRepositoryUrl`.

    Remote schemes and `user@host:path` are allowed; a `file://` URL or a plain path has to lie in
    the workspace.
    """
    if not url or len(url) > MAX_URL_CHARS or _CONTROL.search(url) or url.startswith("-"):
        raise _invalid_url("it is empty, too long, or has characters that no URL has")
    scheme, separator, rest = url.partition("://")
    if not separator:
        if _SCP_LIKE.fullmatch(url):
            return Origin(url, is_local=False)
        if ":" in url:
            raise _invalid_url("its form is not known")
        return Origin(_in_workspace(url, workspace), is_local=True)
    if scheme == "file" and rest.startswith("/"):
        return Origin(_in_workspace(unquote(rest), workspace), is_local=True)
    if scheme not in REMOTE_SCHEMES:
        raise _invalid_url(f"the scheme {scheme[:40]!r} is not allowed")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        raise _invalid_url("it cannot be read") from None
    user = unquote(parts.username or "")
    password = unquote(parts.password or "")
    authority = rest.partition("/")[0]
    if not _HOST.fullmatch(host) or user.startswith("-") or " " in url or parts.netloc != authority:
        raise _invalid_url("its host or user is not one")
    if _CONTROL.search(user + password):
        raise _invalid_url("its user or password has characters that none has")
    userinfo, separator, address = authority.rpartition("@")
    if not separator:
        return Origin(url, is_local=False)
    if scheme not in TOKEN_SCHEMES:
        if ":" in userinfo:
            raise _invalid_url("ssh takes no password: use sshKey")
        return Origin(url, is_local=False)
    login = Login(f"{scheme}://{address}", user, password)
    return Origin(url.replace(f"{userinfo}@", "", 1), is_local=False, login=login)


def checked_server(server: str) -> str:
    """A server that a token may be for, with its scheme. Raises `InvalidRequest`."""
    if not _SERVER.fullmatch(server):
        raise InvalidRequest("host must be as github.com or http://localhost:3000")
    return server if "://" in server else f"https://{server}"


def checked_ref(ref: str) -> str:
    """A branch, tag or commit that cannot be an option of git's. Raises `RefNotFound`."""
    if not ref or ref.startswith("-") or _CONTROL.search(ref) or re.search(r"[ ~^:?*\[\\]", ref):
        raise RefNotFound("This cannot be a branch, a tag or a commit.")
    return ref


def checked_revision(revision: str) -> str:
    """As `checked_ref`, of what git calls a revision or a range. Raises `RefNotFound`."""
    if not revision or revision.startswith("-") or _CONTROL.search(revision):
        raise RefNotFound("This cannot be a revision.")
    return revision


def checked_target(target: str, directory: str) -> str:
    """The absolute path of the target, relative to a directory. Raises `CheckoutFailed`."""
    if not target or _CONTROL.search(target):
        raise CheckoutFailed("The target directory's name is not one.")
    return posixpath.normpath(posixpath.join(directory, target))


def redacted(text: str) -> str:
    """`text` without the credentials of the URLs in it."""
    return _CREDENTIALS.sub(r"\1***@", text)


def _in_workspace(path: str, workspace: Path) -> str:
    full = posixpath.normpath(posixpath.join(workspace, path))
    if not Path(full).is_relative_to(workspace) or _CONTROL.search(full):
        raise _invalid_url("a path has to lie in the workspace")
    return full


def _invalid_url(reason: str) -> InvalidRepositoryUrl:
    return InvalidRepositoryUrl(f"This URL cannot be used: {reason}.")
