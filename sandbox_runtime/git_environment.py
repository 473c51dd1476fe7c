"""What git is told wherever the runtime runs it: to ask nobody, and to run nothing unasked.

A repository, its server and the user's configuration are all able to name programs for git to run.
Those that its work does not need are switched off here. Filters, merge drivers and credential
helpers are left, and run as the user, as they would in his shell; so do the hooks of a repository
in the sandbox that is pushed to.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox_runtime.git_credentials import SSH_COMMAND, Handover

_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/true",
    "SSH_ASKPASS": "/bin/true",
    "GIT_EDITOR": "/bin/true",
    "GIT_PAGER": "cat",
    "GIT_PROXY_COMMAND": "",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
}

_OPTIONS = {
    "protocol.ext.allow": "never",
    "safe.bareRepository": "explicit",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.alternateRefsCommand": "/bin/true",
    "core.safecrlf": "false",
    "submodule.recurse": "false",
    "advice.detachedHead": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "push.gpgSign": "false",
    "log.showSignature": "false",
    "merge.verifySignatures": "false",
    "i18n.logOutputEncoding": "UTF-8",
}

_FROM_USER = {
    *(f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")),
    *("GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_NO_VERIFY"),
}
"""Of the variables that git reads. Others would lead it to another repository, or program."""


def git_environment(given: Mapping[str, str], handover: Handover, *, user: int) -> dict[str, str]:
    """The environment of a git that starts from the user's one, which is `given`."""
    own = {
        name: value
        for name, value in given.items()
        if not name.startswith("GIT_") or name in _FROM_USER
    }
    options = {**_OPTIONS, **handover.options}
    if user:
        # Git takes a repository of another user's for a trap; here users share what is theirs.
        options["safe.directory"] = "*"
    numbered = {"GIT_CONFIG_COUNT": str(len(options))}
    for number, (name, value) in enumerate(options.items()):
        numbered[f"GIT_CONFIG_KEY_{number}"] = name
        numbered[f"GIT_CONFIG_VALUE_{number}"] = value
    return {"GIT_SSH_COMMAND": SSH_COMMAND, **own, **_ENVIRONMENT, **numbered, **handover.env}
