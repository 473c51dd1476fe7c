"""Hands a token or a key to git so that it is in no argument, variable, configuration or log.

It lies in a file of the user's, in a directory of ours, for as long as git runs. Git is told the
file's name. Programs of the same user that run meanwhile can find and read it: what git is told in
a sandbox, it is told as that user.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sandbox_runtime.git_urls import Login, redacted
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.errors import InvalidRequest
from sandbox_runtime.protocol.requests import Credentials
from sandbox_runtime.settings import Settings

USERNAME = "x-access-token"
"""Beside a token that comes without one: servers that take tokens look at the token alone."""

SSH_COMMAND = "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new"
"""Nobody is there to be asked about a host's key."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Secrets(NamedTuple):
    """What one run of git may show to servers."""

    login: Login | None = None
    ssh_key: str | None = None

    def redact(self, text: str) -> str:
        """`text` without them: a server may send back what it was sent."""
        password = self.login.password if self.login else ""
        return redacted(text.replace(password, "***") if password else text)


class Handover(NamedTuple):
    """What git has to be told to find the secrets, which are not in it."""

    options: Mapping[str, str]
    env: Mapping[str, str]


def secrets_of(given: Credentials, server: str | None, in_url: Login | None = None) -> Secrets:
    """What a request gives, else what its URL has. Raises `InvalidRequest`."""
    key = given.ssh_key
    if key is not None and (not key.strip() or "\0" in key):
        raise InvalidRequest("credentials.sshKey is not a private key")
    if given.token is None:
        return Secrets(in_url, key)
    username = given.username or (in_url.username if in_url else "") or USERNAME
    for field, text in (("token", given.token), ("username", username)):
        if _CONTROL.search(text):
            raise InvalidRequest(f"credentials.{field} has characters that none has")
    if server is None:
        raise InvalidRequest("credentials.token is for http and https alone, and needs the host")
    return Secrets(Login(server, username, given.token), key)


@contextmanager
def handed_over(
    secrets: Secrets, *, programs: UserPrograms, settings: Settings, user: int
) -> Iterator[Handover]:
    """Lets git find the secrets in the block, and nobody after it."""
    if secrets == Secrets():
        yield Handover({}, {})
        return
    directory = Path(tempfile.mkdtemp(prefix="git-", dir=settings.scratch))
    try:
        directory.chmod(0o711)  # Who is told a name in it may open it, if it is his.
        options: dict[str, str] = {}
        env: dict[str, str] = {}
        if login := secrets.login:
            file = directory / "login"
            file.write_text(f"username={login.username}\npassword={login.password}\n")
            programs.give_to_user(str(file), user)
            # The empty one first: no other helper, be it the repository's, is told the token.
            options["credential.helper"] = ""
            helper = f"!f() {{ [ \"$1\" = get ] && cat '{file}'; }}; f"
            options[f"credential.{login.server}.helper"] = helper
        if key := secrets.ssh_key:
            file = directory / "key"
            file.write_text(f"{key.strip()}\n")
            programs.give_to_user(str(file), user)
            only = f"-i '{file}' -oIdentitiesOnly=yes -oIdentityAgent=none"
            env["GIT_SSH_COMMAND"] = f"{SSH_COMMAND} {only}"
        yield Handover(options, env)
    finally:
        shutil.rmtree(directory)
