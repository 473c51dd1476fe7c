"""What requests may say: every wrong field is named, every right one arrives in the spec."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from web.errors import InvalidField, LanguageUnsupported, RequestFault, UnreadableBody
from web.requests import decode_json
from web.schemas import (
    BuildRequest,
    CodeRequest,
    ContextRequest,
    ExecRequest,
    NewSandboxRequest,
    SandboxRequest,
    SessionRequest,
    job_view,
)
from workers.contract.jobs import BuildSpec, BuildStep, ExecSpec, Job, JobKind, Status, StepRecord
from workers.contract.networks import Network
from workers.contract.sandboxes import SandboxSpec

STEP = {"name": "test", "commands": ["make"]}
REPOSITORY = "https://example.org/a.git"
MIB = 1024 * 1024


def read_exec(**fields: Any) -> ExecSpec:
    return decode_json(json.dumps(fields).encode(), ExecRequest).to_spec()


def read_build(**fields: Any) -> BuildSpec:
    return decode_json(json.dumps(fields).encode(), BuildRequest).to_spec()


def field_of(fault: RequestFault) -> object:
    assert fault.details is not None
    return fault.details["field"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "command"),
        ({"command": "a", "argv": ["b"]}, "command"),
        ({"command": ""}, "command"),
        ({"command": 1}, "command"),
        ({"command": "a\0b"}, "command"),
        ({"command": "a\0b\n"}, "command"),
        ({"command": "x" * (MIB + 1)}, "command"),
        ({"command": "é" * (MIB // 2 + 1)}, "command"),
        ({"argv": []}, "argv"),
        ({"argv": [""]}, "argv[0]"),
        ({"argv": ["a", "b\0"]}, "argv[1]"),
        ({"argv": ["a", 3]}, "argv[1]"),
        ({"argv": "ls"}, "argv"),
        ({"command": "a", "timeoutMs": 0}, "timeoutMs"),
        ({"command": "a", "timeoutMs": -5}, "timeoutMs"),
        ({"command": "a", "timeoutMs": 24 * 3600 * 1000 + 1}, "timeoutMs"),
        ({"command": "a", "timeoutMs": 10**30}, "timeoutMs"),
        ({"command": "a", "timeoutMs": "100"}, "timeoutMs"),
        ({"command": "a", "timeoutMs": 1.5}, "timeoutMs"),
        ({"command": "a", "timeoutMs": None}, "timeoutMs"),
        ({"command": "a", "timeoutMs": True}, "timeoutMs"),
        ({"command": "a", "env": {"A-B": "1"}}, "env"),
        ({"command": "a", "env": {"1A": "1"}}, "env"),
        ({"command": "a", "env": {"": "1"}}, "env"),
        ({"command": "a", "env": {"A\n": "1"}}, "env"),
        ({"command": "a", "env": {"A=": "1"}}, "env"),
        ({"command": "a", "env": {"A": 1}}, "env"),
        ({"command": "a", "env": {"A": "b\0"}}, "env"),
        ({"command": "a", "env": {"A": "b" * 120_001}}, "env"),
        ({"command": "a", "env": []}, "env"),
        ({"command": "a", "cwd": "/a\0"}, "cwd"),
        ({"command": "a", "cwd": ""}, "cwd"),
        ({"command": "a", "session": "a/b"}, "session"),
        ({"command": "a", "session": "../x"}, "session"),
        ({"command": "a", "session": ""}, "session"),
        ({"command": "a", "encoding": "latin1"}, "encoding"),
        ({"command": "a", "outputLimitBytes": -1}, "outputLimitBytes"),
        ({"command": "a", "outputLimitBytes": 256 * MIB + 1}, "outputLimitBytes"),
        ({"command": "a", "stdin": "x" * (4 * MIB + 1)}, "stdin"),
        ({"command": "a", "cancelOnDisconnect": "yes"}, "cancelOnDisconnect"),
        ({"command": "a", "timeout_ms": 5}, "timeout_ms"),
        ({"command": "a", "__proto__": {}}, "__proto__"),
    ],
)
def test_a_wrong_field_of_a_command_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_exec(**fields)

    assert field_of(caught.value) == field


def test_a_timeout_out_of_bounds_is_told_the_bound() -> None:
    with pytest.raises(InvalidField, match="86400000"):
        read_exec(command="a", timeoutMs=10**9)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"steps": [STEP]}, "repoUrl"),
        ({"steps": [STEP], "repoUrl": REPOSITORY, "archive": "AAAA"}, "repoUrl"),
        ({"steps": [STEP], "repoUrl": "--upload-pack=x"}, "repoUrl"),
        ({"steps": [STEP], "repoUrl": "ext::sh -c x"}, "repoUrl"),
        ({"steps": [STEP], "repoUrl": "file:///etc"}, "repoUrl"),
        ({"steps": [STEP], "repoUrl": "https://a/b c"}, "repoUrl"),
        ({"steps": [STEP], "archive": "?"}, "archive"),
        ({"steps": [STEP], "repoUrl": REPOSITORY, "ref": "-x"}, "ref"),
        ({"steps": [STEP], "repoUrl": REPOSITORY, "depth": 0}, "depth"),
        ({"steps": [], "repoUrl": REPOSITORY}, "steps"),
        ({"repoUrl": REPOSITORY}, "steps"),
        ({"steps": [STEP] * 101, "repoUrl": REPOSITORY}, "steps"),
        ({"steps": [STEP, STEP], "repoUrl": REPOSITORY}, "steps[1].name"),
        ({"steps": [{**STEP, "name": "checkout"}], "repoUrl": REPOSITORY}, "steps[0].name"),
        ({"steps": [{**STEP, "name": ""}], "repoUrl": REPOSITORY}, "steps[0].name"),
        ({"steps": [{**STEP, "name": "a\nb"}], "repoUrl": REPOSITORY}, "steps[0].name"),
        ({"steps": [{"name": "a"}], "repoUrl": REPOSITORY}, "steps[0].commands"),
        ({"steps": [{**STEP, "commands": []}], "repoUrl": REPOSITORY}, "steps[0].commands"),
        ({"steps": [{**STEP, "commands": ["a\0"]}], "repoUrl": REPOSITORY}, "steps[0].commands[0]"),
        ({"steps": [{**STEP, "env": {"a b": ""}}], "repoUrl": REPOSITORY}, "steps[0].env"),
        ({"steps": [{**STEP, "run": "x"}], "repoUrl": REPOSITORY}, "steps[0].run"),
        ({"steps": [STEP], "repoUrl": REPOSITORY, "sandbox": {"cpus": 0}}, "sandbox.cpus"),
        ({"steps": [STEP], "repoUrl": REPOSITORY, "sandbox": {"image": "a/../b"}}, "sandbox.image"),
    ],
)
def test_a_wrong_field_of_a_build_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_build(**fields)

    assert field_of(caught.value) == field


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        (SandboxRequest, {"memoryMb": 1}, "memoryMb"),
        (SandboxRequest, {"memoryMb": "1g"}, "memoryMb"),
        (SandboxRequest, {"network": "all"}, "network"),
        (SandboxRequest, {"network": {"allow": []}}, "network.allow"),
        (SandboxRequest, {"network": {"allow": ["203.0.113.0/24"] * 65}}, "network.allow"),
        (SandboxRequest, {"network": {"allow": ["203.0.113.0/24", "all"]}}, "network.allow[1]"),
        (SandboxRequest, {"network": {"deny": []}}, "network.deny"),
        (SandboxRequest, {"cpus": -1}, "cpus"),
        (SandboxRequest, {"labels": {"a b": "c"}}, "labels"),
        (SandboxRequest, {"name": "a"}, "name"),
        (NewSandboxRequest, {"name": "A"}, "name"),
        (NewSandboxRequest, {"name": "a" * 64}, "name"),
        (NewSandboxRequest, {"name": "-a"}, "name"),
        (NewSandboxRequest, {"name": "a\n"}, "name"),
        (SessionRequest, {}, "name"),
        (SessionRequest, {"name": "a b"}, "name"),
        (SessionRequest, {"name": "a", "cwd": None}, "cwd"),
        (ContextRequest, {}, "language"),
        (ContextRequest, {"language": "python", "envVars": {"A B": ""}}, "envVars"),
        (CodeRequest, {}, "code"),
        (CodeRequest, {"code": "1", "context": "a b"}, "context"),
        (CodeRequest, {"code": "1", "env": {"A=": "1"}}, "env"),
    ],
)
def test_a_wrong_field_of_another_request_is_named(
    kind: type[msgspec.Struct], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        decode_json(json.dumps(fields).encode(), kind)

    assert field_of(caught.value) == field


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b"\xff\xfe",
        b'{"command": "\xff"}',
        b'{"command": NaN}',
        b'{"timeoutMs": Infinity}',
        b'{"command": "\\ud800"}',
        b'{"command": "a"} trailing',
        b'{"env": {"A": ' + b"[" * 100_000,
    ],
    ids=lambda body: body[:20].decode("latin1"),
)
def test_what_is_not_json_is_unreadable_or_of_the_wrong_type(body: bytes) -> None:
    with pytest.raises((UnreadableBody, InvalidField)):
        decode_json(body, ExecRequest)


@pytest.mark.parametrize("body", [b"[]", b"3", b'"x"', b"null", b"[" * 100_000])
def test_json_that_is_no_object_is_the_body_s_fault(body: bytes) -> None:
    with pytest.raises(InvalidField) as caught:
        decode_json(body, ExecRequest)

    assert field_of(caught.value) == "body"


def test_a_command_s_fields_arrive_in_its_spec() -> None:
    spec = read_exec(
        command="make", session="s", cwd="/tmp", env={"A": "1", "B": None}, stdin="x", timeoutMs=9
    )

    assert spec == ExecSpec(
        command="make", session="s", cwd="/tmp", env={"A": "1", "B": None}, stdin="x", timeout_ms=9
    )


def test_a_build_s_fields_arrive_in_its_spec() -> None:
    spec = read_build(
        repoUrl=REPOSITORY, ref="main", depth=1, steps=[STEP], env={"CI": "1"}, sandbox={"pids": 99}
    )

    assert (spec.repo_url, spec.ref, spec.depth, spec.env) == (REPOSITORY, "main", 1, {"CI": "1"})
    assert spec.steps == [BuildStep(name="test", commands=["make"])]
    assert spec.sandbox.pids == 99


@pytest.mark.parametrize(
    "url", [REPOSITORY, "http://h/x", "git://h/x", "ssh://g@h/x", "git@github.com:a/b.git"]
)
def test_a_repository_is_named_by_any_of_git_s_network_urls(url: str) -> None:
    assert read_build(repoUrl=url, steps=[STEP]).repo_url == url


def test_a_sandbox_differs_only_in_what_a_request_names() -> None:
    spec = SandboxSpec(network=Network.EGRESS, env={"A": "1"}, memory_mb=512)

    assert SandboxRequest().differences(spec) == []
    assert SandboxRequest(network=Network.EGRESS, memory_mb=512).differences(spec) == []
    assert SandboxRequest(network=Network.NONE, memory_mb=64).differences(spec) == [
        "network",
        "memoryMb",
    ]


@pytest.mark.parametrize(
    ("word", "language"), [("py", "python"), ("JS", "javascript"), ("C++17", "c++17")]
)
def test_a_language_has_one_name_and_may_be_one_that_the_image_knows(
    word: str, language: str
) -> None:
    request = decode_json(f'{{"code": "1", "language": "{word}"}}'.encode(), CodeRequest)

    assert request.asked_language() == language


def test_a_language_that_cannot_be_is_answered_with_those_that_always_are() -> None:
    request = decode_json(b'{"code": "1", "language": "../cobol"}', CodeRequest)

    with pytest.raises(LanguageUnsupported) as caught:
        request.asked_language()

    assert caught.value.details == {
        "field": "language",
        "supported": ["javascript", "python", "typescript"],
    }


def test_a_queued_job_is_shown_with_its_status_and_without_what_it_has_not() -> None:
    job = Job(id="a", kind=JobKind.EXEC, owner="o", spec=ExecSpec(command="x"), created_at="t")

    shown = msgspec.to_builtins(job_view(job))

    assert shown["status"] == "queued"
    assert shown["session"] == "default"
    assert {"exitCode", "conclusion", "error", "steps", "node", "owner"}.isdisjoint(shown)


def test_a_build_is_shown_with_the_status_of_each_step() -> None:
    job = Job(
        id="a",
        kind=JobKind.BUILD,
        owner="o",
        spec=BuildSpec(steps=[]),
        created_at="t",
        status=Status.RUNNING,
        steps=[StepRecord(name="checkout")],
    )

    assert msgspec.to_builtins(job_view(job))["steps"] == [{"name": "checkout", "status": "queued"}]
