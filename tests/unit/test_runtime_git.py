"""What may be cloned, and what git's failures are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_runtime.git_failures import MESSAGES, reason_of
from sandbox_runtime.git_urls import (
    Login,
    Origin,
    checked_ref,
    checked_server,
    checked_target,
    origin_of,
    redacted,
)
from sandbox_runtime.protocol.errors import (
    InvalidRepositoryUrl,
    InvalidRequest,
    RefNotFound,
)

WORKSPACE = Path("/workspace")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a/b.git",
        "http://[::1]:8080/a",
        "git://example.org/a",
        "ssh://git@example.org:22/a",
        "git@example.org:a/b.git",
        "example.org:a",
    ],
)
def test_remote_urls_are_taken_as_they_are(url: str) -> None:
    assert origin_of(url, WORKSPACE) == Origin(url, is_local=False)


@pytest.mark.parametrize(
    ("url", "bare", "login"),
    [
        (
            "https://ann:p%40ss@example.org:8443/a",
            "https://example.org:8443/a",
            Login("https://example.org:8443", "ann", "p@ss"),
        ),
        (
            "http://token@[::1]:80/a@b",
            "http://[::1]:80/a@b",
            Login("http://[::1]:80", "token", ""),
        ),
    ],
)
def test_credentials_in_a_url_are_for_its_server_and_leave_it(
    url: str, bare: str, login: Login
) -> None:
    origin = origin_of(url, WORKSPACE)

    assert origin == Origin(bare, is_local=False, login=login)
    assert origin.server == login.server


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/b.git", "b"),
        ("https://example.org/a/b/?q", "b"),
        ("git@example.org:a/b.git", "b"),
        ("git@example.org:b", "b"),
        ("/workspace/a/b.git/", "b"),
        ("https://example.org/", ""),
    ],
)
def test_a_repository_has_the_name_of_its_urls_last_part(url: str, name: str) -> None:
    assert origin_of(url, WORKSPACE).name == name


@pytest.mark.parametrize("server", ["github.com", "https://github.com", "http://[::1]:80"])
def test_a_token_is_for_a_server(server: str) -> None:
    assert checked_server(server).endswith(server)


@pytest.mark.parametrize("server", ["", "-x", "ssh://a", "a/b", "a@b", "a b", "a\nb", "https://"])
def test_a_token_is_for_nothing_else(server: str) -> None:
    with pytest.raises(InvalidRequest):
        checked_server(server)


@pytest.mark.parametrize("url", ["a", "/workspace/a", "file:///workspace/a", "b/../a"])
def test_a_path_in_the_workspace_is_local(url: str) -> None:
    assert origin_of(url, WORKSPACE) == Origin("/workspace/a", is_local=True)


@pytest.mark.parametrize(
    "url",
    [
        *("", "-u", "--upload-pack=x", "a\nb", "a\x00b", "x" * 5000),
        *("ext::sh -c id", "ext:::x", "fd::3", "host::path", "transport::https://example.org/a"),
        *("/etc", "../x", "/workspace/../etc", "/workspaces/x", "file:///etc", "file://host/x"),
        *("file:///workspace/%2e%2e/etc", "file:///workspace/a%00b"),
        *("ftp://example.org/a", "HTTPS://example.org/a", "javascript://x/y"),
        *("http://", "http:///a", "http://-x/a", "http://a b/c", "http://example.org:port/a"),
        *("https://example.org#@example.com/a", "https://example.org?@example.com/a"),
        *("https://a%0ab:c@example.org/a", "ssh://ann:secret@example.org/a"),
        *("ssh://-oProxyCommand=x/a", "ssh://-x@example.org/a", "ssh://%2dx@example.org/a"),
        *("git@-oProxyCommand=x:a", "git@example.org:-a", "-oProxyCommand=x:a"),
    ],
)
def test_all_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidRepositoryUrl):
        origin_of(url, WORKSPACE)


@pytest.mark.parametrize("ref", ["main", "feature/x", "v1.0", "0" * 40, "refs/pull/1/head", "ünï"])
def test_a_ref_is_taken_as_it_is(ref: str) -> None:
    assert checked_ref(ref) == ref


@pytest.mark.parametrize(
    "ref", ["", "-b", "--upload-pack=x", "a b", "a\n", "a:b", "a^", "a~1", "*"]
)
def test_what_cannot_be_a_ref_is_not_there(ref: str) -> None:
    with pytest.raises(RefNotFound):
        checked_ref(ref)


def test_a_target_is_relative_to_a_directory() -> None:
    assert checked_target("a/./b", "/workspace") == "/workspace/a/b"
    assert checked_target("/app/x", "/workspace") == "/app/x"


def test_credentials_are_taken_out_of_urls() -> None:
    text = "fatal: 'https://ann:p@ss@example.org/a' and ssh://token@host/b, not mail@example.org"

    assert redacted(text) == (
        "fatal: 'https://***@example.org/a' and ssh://***@host/b, not mail@example.org"
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("fatal: Remote branch x not found in upstream origin", "ref_not_found"),
        ("fatal: couldn't find remote ref refs/pull/9/head", "ref_not_found"),
        ("fatal: remote error: upload-pack: not our ref 00", "ref_not_found"),
        ("fatal: Authentication failed for ''", "authentication_failed"),
        (
            "fatal: could not read Username for '': terminal prompts disabled",
            "authentication_failed",
        ),
        (
            "git@host: Permission denied (publickey).\nfatal: Could not read from remote",
            "authentication_failed",
        ),
        (
            "fatal: unable to access '': The requested URL returned error: 403",
            "authentication_failed",
        ),
        ("fatal: repository '' not found", "repository_not_found"),
        (
            "remote: Repository not found.\nfatal: repository 'SSL' not found",
            "repository_not_found",
        ),
        (
            "fatal: remote error: access denied or repository not exported: /x",
            "repository_not_found",
        ),
        ("fatal: '/x' does not appear to be a git repository", "repository_not_found"),
        ("fatal: unable to access '': Could not resolve host: h", "network_error"),
        ("ssh: connect to host h port 22: Connection refused", "network_error"),
        ("fatal: unable to access '': SSL certificate problem: self-signed", "network_error"),
        ("error: RPC failed; curl 92\nfatal: early EOF", "network_error"),
        ("fatal: could not create work tree dir 'x': Permission denied", "checkout_failed"),
        ("error: unable to write file x: No space left on device", "disk_full"),
        (
            "fatal: not a git repository: .git",
            "not_a_repository",
        ),
        ("fatal: cannot use bare repository '/x' (safe.bareRepository is", "not_a_repository"),
        ("On branch main\nnothing to commit, working tree clean", "nothing_to_commit"),
        ("!\trefs/heads/a:refs/heads/a\t[rejected] (fetch first)", "push_rejected"),
        ("error: src refspec refs/heads/x does not match any", "ref_not_found"),
        ("CONFLICT (content): Merge conflict in a", "merge_conflict"),
        (
            "error: Your local changes would be overwritten by merge",
            "uncommitted_changes",
        ),
        ("fatal: a branch named 'x' already exists", "branch_exists"),
        ("error: The branch 'x' is not fully merged.", "branch_not_merged"),
        ("error: branch 'x' not found.", "ref_not_found"),
        ("fatal: Unable to create '/x/.git/index.lock': File exists.", "repository_locked"),
        ("fatal: pathspec 'x' did not match any files", "path_not_found"),
        ("", "checkout_failed"),
    ],
)
def test_gits_words_tell_what_went_wrong(words: str, code: str) -> None:
    assert reason_of(words, "checkout_failed") == code
    assert MESSAGES[code]
