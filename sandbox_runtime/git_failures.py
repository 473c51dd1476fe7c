"""Tells from git's own words why it failed."""

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
    "git_failed": "Git could not do it.",
    "invalid_repository_url": "The remote's URL is none that may be used here.",
    "not_a_repository": "The directory is in no repository that may be used here.",
    "remote_not_found": "The repository has no remote of this name.",
    "path_not_found": "The repository has no such file.",
    "nothing_to_commit": "No change is staged.",
    "push_rejected": "The remote does not take what was pushed.",
    "merge_conflict": "What was pulled does not go together with what is here.",
    "uncommitted_changes": "Changes that are not committed would be lost.",
    "branch_exists": "There is a branch of this name.",
    "branch_not_merged": "The branch has commits that are in no other.",
    "repository_locked": "Another git works on the repository.",
}
"""What is said of each error code."""

_PATTERNS = (
    ("disk_full", r"No space left on device"),
    ("repository_locked", r"\.lock': File exists|cannot lock ref"),
    ("push_rejected", r"\[(?:remote )?rejected\]"),
    ("merge_conflict", r"CONFLICT \(|Automatic merge failed|refusing to merge unrelated"),
    ("uncommitted_changes", r"would be overwritten by|have not concluded your merge"),
    ("branch_exists", r"a branch named .* already exists"),
    ("branch_not_merged", r"is not fully merged"),
    ("nothing_to_commit", r"nothing to commit|nothing added to commit|no changes added"),
    (
        "not_a_repository",
        r"not a git repository|must be run in a work tree|dubious ownership|"
        r"cannot use bare repository",
    ),
    ("path_not_found", r"pathspec '.*' did not match any files$|is outside repository"),
    (
        "ref_not_found",
        r"Remote branch .* not found|couldn't find remote ref|not our ref|no such ref|"
        r"unadvertised object|did not match any file|reference is not a tree|bad object|"
        r"unable to read tree|unknown revision|bad revision|[Nn]ot a valid (?:object|branch) name|"
        r"invalid reference|src refspec .* does not match|branch '.*' not found|not a valid ref",
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


def reason_of(words: str, otherwise: str) -> str:
    """The error code that git's words stand for."""
    for code, pattern in _PATTERNS:
        if re.search(pattern, words, re.MULTILINE):
            return code
    return otherwise
