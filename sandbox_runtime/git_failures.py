"""Tells from git's own words why a clone failed."""

from __future__ import annotations

import re

MESSAGES = {
    "disk_full": "The repository does not fit on the sandbox's disk.",
    "ref_not_found": "The repository has no branch, tag or commit of this name.",
    "authentication_failed": "The repository refuses access with these credentials, or needs some.",
    "network_error": "The repository's server cannot be reached, or broke the connection.",
    "repository_not_found": "There is no such repository.",
    "target_not_empty": "The target directory exists and is not empty.",
    "git_missing": "This sandbox has no git.",
    "checkout_failed": "Git could not check the repository out.",
}
"""What is said of each error code."""

_PATTERNS = (
    ("disk_full", r"No space left on device"),
    (
        "ref_not_found",
        r"Remote branch .* not found|couldn't find remote ref|not our ref|no such ref|"
        r"unadvertised object|did not match any file|reference is not a tree|bad object|"
        r"unable to read tree",
    ),
    (
        "authentication_failed",
        r"Authentication failed|could not read (?:Username|Password)|Permission denied[ ,]+[(p]|"
        r"Host key verification failed|terminal prompts disabled|returned error: 40[13]",
    ),
    (
        "repository_not_found",
        r"[Rr]epository .*not found|Repository not found|does not exist|not exported|"
        r"does not appear to be a git repository|returned error: 404|not found: did you run|"
        r"no such repository",
    ),
    (
        "network_error",
        r"Could not resolve|Couldn't resolve|unable to look up|Failed to connect|"
        r"Couldn't connect|unable to connect|Connection (?:refused|timed out|reset|closed)|"
        r"timed out|Network is unreachable|No route to host|early EOF|RPC failed|SSL|TLS|"
        r"certificate|returned error: 5\d\d|unexpectedly|[Pp]roxy",
    ),
    ("network_error", r"hung up|Could not read from remote"),
)
"""The first that git's own words match, in the C locale, is what went wrong."""


def reason_of(words: str) -> str:
    """The error code that git's words stand for."""
    for code, pattern in _PATTERNS:
        if re.search(pattern, words):
            return code
    return "checkout_failed"
