"""Commands in sessions, as the workers use them: real shells, over the runtime's socket."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from sandbox_runtime.journal import UNACKNOWLEDGED_LIMIT_BYTES
from sandbox_runtime.protocol.connections import connect_guarded
from sandbox_runtime.protocol.errors import (
    ExecutionConflict,
    ExecutionForgotten,
    ExecutionNotFound,
    InvalidRequest,
    NotAuthorized,
    SandboxRestarted,
)
from sandbox_runtime.protocol.events import (
    Conclusion,
    RuntimeEvent,
    Start,
    Stdout,
    Truncated,
)
from sandbox_runtime.protocol.requests import CancelReason, Encoding, ExecRequest, Session
from tests.running_runtime import IS_ROOT, TOKEN, Run, RunningRuntime, running_runtime, wait_until

MEMORY_MARGIN_MB = 2 * UNACKNOWLEDGED_LIMIT_BYTES // 2**20
"""What a long output may cost, whatever its length: the journal's bound, and its copies."""


_numbers = itertools.count(1)


class Shell:
    """A session of one test, by which it runs commands."""

    def __init__(self, runtime: RunningRuntime, name: str) -> None:
        self.runtime = runtime
        self.session = Session(name=name, cwd=str(runtime.workspace))

    def request(self, command: str | None, **rest: object) -> ExecRequest:
        return msgspec.structs.replace(ExecRequest(command=command, session=self.session), **rest)

    def run(self, command: str | None = None, **rest: object) -> Run:
        return self.runtime.run(self.request(command, **rest))

    def prints(self, command: str, **rest: object) -> str:
        """What a command prints that must succeed, and be silent on stderr."""
        run = self.run(command, **rest)
        assert (run.complete.exit_code, run.stderr) == (0, "")
        return run.stdout


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime() as runtime:
        yield runtime


@pytest.fixture
def shell(runtime: RunningRuntime) -> Iterator[Shell]:
    shell = Shell(runtime, f"session {next(_numbers)}")
    yield shell
    runtime.client.end_session(shell.session.name)


# One command


def test_a_command_tells_its_start_its_output_and_its_end_in_that_order(shell: Shell) -> None:
    run = shell.run("echo hi")

    start, output, end = run.events
    assert (start, output) == (
        Start(command="echo hi", timestamp=start.timestamp),
        Stdout(data="hi\n", timestamp=output.timestamp),
    )
    assert (run.complete.conclusion, run.complete.exit_code) == (Conclusion.SUCCESS, 0)
    assert end.timestamp.endswith("Z")


def test_the_two_streams_are_told_apart(shell: Shell) -> None:
    run = shell.run("echo 1; echo 2 >&2; echo 3")

    assert (run.stdout, run.stderr) == ("1\n3\n", "2\n")


@pytest.mark.parametrize(
    ("command", "exit_code", "stderr"),
    [
        ("(exit 3)", 3, ""),
        ("nonesuch", 127, "bash: nonesuch: command not found\n"),
        ("sh -c 'kill -9 $$'", 137, ""),
        ("}", 2, "bash: eval: line 1: syntax error near unexpected token `}'\n"),
        ("fi", 2, "bash: eval: line 1: syntax error near unexpected token `fi'\n"),
        ('echo "abc', 2, "bash: eval: line 1: unexpected EOF while looking for matching `\"'\n"),
        ("echo ${nope?}", 1, "bash: nope: parameter not set\n"),
        ("set -u; echo $nope; set +u", 1, "bash: nope: unbound variable\n"),
        ("return 4", 4, ""),
        ("kill -INT $$; echo on", 130, ""),
    ],
)
def test_a_command_that_fails_is_a_result_and_the_session_goes_on(
    shell: Shell, command: str, exit_code: int, stderr: str
) -> None:
    shell.run("kept=yes")

    run = shell.run(command)

    assert (run.complete.exit_code, run.complete.conclusion) == (exit_code, Conclusion.FAILURE)
    assert run.stderr.startswith(stderr)
    assert str(shell.runtime.scratch) not in run.stderr
    assert shell.prints("set +u; echo $kept") == "yes\n"


def test_a_command_can_ask_for_the_exit_code_of_the_one_before(shell: Shell) -> None:
    shell.run("(exit 42)")

    assert shell.prints("echo $?") == "42\n"
    assert shell.prints("echo $?") == "0\n"


@pytest.mark.parametrize(
    ("command", "stdout"),
    [
        ("cat", ""),
        ("read x; echo [$x]", "[]\n"),
        ("head -c 10; cat", ""),
        ("cat <<EOF\n$((40 + 2))\nEOF", "42\n"),
        ("echo a # comment", "a\n"),
        ("echo a \\", "a \\\n"),
        ("f() { echo \"in $1\"; }\nf x && (echo 'sub  shell') | tr a-z A-Z", "in x\nSUB  SHELL\n"),
        ("printf 'a\\r\\nb\\r'", "a\r\nb\r"),
        ("printf '\\n\\nx'", "\n\nx"),
        ("printf 'a\\n\\n\\n'", "a\n\n\n"),
        ("printf 'a\\0b'", "a\0b"),
        ("printf '\\xff\\xfeA'", "��A"),
        ("echo 'héllo 🎉'", "héllo 🎉\n"),
        ("echo out > /dev/stdout; echo $-", "out\nhiBs\n"),
        ("", ""),
    ],
)
def test_a_command_means_what_bash_says_and_nothing_of_ours_shows(
    shell: Shell, command: str, stdout: str
) -> None:
    assert shell.prints(command) == stdout


def test_nothing_of_ours_is_in_the_shell_s_environment_or_functions(shell: Shell) -> None:
    printed = shell.prints("declare -F; compgen -v; env")

    assert "coldframe" not in printed.replace(str(shell.runtime.workspace.parent), "").lower()


def test_stdin_is_what_the_request_says(shell: Shell) -> None:
    assert shell.prints("cat; echo end", stdin="one\ntwo\n") == "one\ntwo\nend\n"
    assert shell.prints("cat") == ""


def test_a_stdin_of_megabytes_arrives_whole(shell: Shell) -> None:
    stdin = "0123456789abcdef" * (4 * 1024 * 1024 // 16)

    assert shell.prints("wc -c", stdin=stdin).strip() == str(len(stdin))


def test_output_that_a_command_turned_away_comes_back_with_the_next(shell: Shell) -> None:
    shell.run("exec 1>/dev/null 2>&1 0</etc/passwd")

    assert shell.prints("echo v; cat") == "v\n"


def test_a_command_of_200_kb_runs(shell: Shell) -> None:
    text = "x'$\n" * 50_000

    assert shell.prints(f"cat <<'END'\n{text}END") == text


@pytest.mark.parametrize(
    "command",
    ["printf '%01000000d' 7", "seq 1 150000", "seq -f '%.0f' 1 1000000 | head -c 10000000"],
)
def test_long_output_arrives_byte_for_byte(shell: Shell, command: str) -> None:
    expected = shell.runtime.as_user(command)

    assert shell.prints(command) == expected


def test_base64_gives_the_bytes_as_they_are(shell: Shell) -> None:
    run = shell.run("head -c 300000 /dev/urandom | tee bytes", encoding=Encoding.BASE64)

    got = b"".join(base64.b64decode(event.data) for event in run.all(Stdout))
    assert got == (shell.runtime.workspace / "bytes").read_bytes()


def test_output_beyond_the_cap_is_counted_and_the_program_goes_on(shell: Shell) -> None:
    run = shell.run("head -c 100000 /dev/zero; echo done > finished", output_limit_bytes=1000)

    assert run.stdout == "\0" * 1000
    assert run.only(Truncated).dropped_bytes == 99_000
    assert run.events.index(run.only(Truncated)) == len(run.events) - 2
    assert run.complete.exit_code == 0
    assert (shell.runtime.workspace / "finished").exists()


# What is left behind


def test_a_program_in_the_background_holds_nothing_up_and_lives_on(shell: Shell) -> None:
    run = shell.run("sleep 100 & echo started $!", timeout_ms=60_000)

    assert run.complete.exit_code == 0
    assert run.stderr == ""
    pid = run.stdout.split()[1]
    assert "sleep 100" in shell.prints("jobs")
    assert shell.prints(f"kill -0 {pid} && echo alive") == "alive\n"
    shell.run("kill %1; wait")
    assert shell.prints("jobs") == ""


def test_what_a_program_in_the_background_prints_late_is_no_later_command_s(shell: Shell) -> None:
    assert shell.prints("(sleep 0.3; echo late; touch said) & echo now") == "now\n"

    wait_until((shell.runtime.workspace / "said").exists)

    assert shell.prints("echo mine") == "mine\n"


def test_a_program_in_the_background_that_prints_without_end_slows_nobody(shell: Shell) -> None:
    shell.run("yes &")

    for _ in range(20):
        assert shell.prints("echo mine") == "mine\n"

    assert shell.prints("kill -0 %1 && kill %1; wait && echo") == "\n"


def test_the_end_of_a_session_ends_all_that_was_started_in_it(shell: Shell) -> None:
    shell.run("setsid sleep 1000 & echo $! > daemon; (setsid sleep 1000 & echo $! > orphan)")
    shell.run("kept=yes")
    pids = [(shell.runtime.workspace / name).read_text().strip() for name in ("daemon", "orphan")]

    shell.runtime.client.end_session(shell.session.name)

    assert not any(is_alive(pid) for pid in pids)
    assert shell.prints("echo [$kept]") == "[]\n"


def test_ending_a_session_ends_the_command_that_runs_in_it(shell: Shell) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(shell.run, "touch begun; sleep 1; touch too-late")
        wait_until((shell.runtime.workspace / "begun").exists)

        shell.runtime.client.end_session(shell.session.name)

        assert running.result().error.code == "session_deleted"
    time.sleep(1.1)  # Nothing can be waited for that must not happen.
    assert not (shell.runtime.workspace / "too-late").exists()


def test_ending_a_session_that_is_not_there_is_no_error(runtime: RunningRuntime) -> None:
    runtime.client.end_session("never/was")


# Sessions


def test_directory_variables_and_functions_stay(shell: Shell) -> None:
    shell.run("cd /usr; export FOO='a b'; x=1; f() { echo fn; }; alias ll='echo listed'; set -- p")

    assert shell.prints('pwd; echo "$FOO $x $1"; f; ll') == "/usr\na b 1 p\nfn\nlisted\n"


def test_sessions_share_files_and_nothing_else(runtime: RunningRuntime, shell: Shell) -> None:
    other = Shell(runtime, "another")
    shell.run("cd /usr; x=1; touch $HOME/shared")

    assert other.prints("pwd; echo [$x]; ls $HOME/shared") == (
        f"{runtime.workspace}\n[]\n{runtime.workspace.parent}/home/shared\n"
    )


def test_commands_of_one_session_wait_for_each_other(shell: Shell) -> None:
    started_at = time.monotonic()

    with ThreadPoolExecutor(5) as pool:
        runs = list(pool.map(lambda n: shell.run(f"sleep 0.2; echo {n}"), range(5)))

    assert time.monotonic() - started_at >= 1
    assert [run.stdout for run in runs] == [f"{n}\n" for n in range(5)]


def test_sessions_run_side_by_side(runtime: RunningRuntime) -> None:
    shells = [Shell(runtime, f"side-{n}") for n in range(5)]
    meet = "touch met-$$; until [ $(ls met-* | wc -l) = 5 ]; do sleep 0.05; done; echo ok"

    with ThreadPoolExecutor(5) as pool:
        runs = list(pool.map(lambda shell: shell.run(meet, timeout_ms=60_000), shells))

    assert {run.stdout for run in runs} == {"ok\n"}


def test_two_first_commands_at_once_make_one_session(shell: Shell) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: shell.run("echo $$"), range(4)))

    assert len({run.stdout for run in runs}) == 1


def test_sixteen_sessions_of_a_hundred_and_fifty_commands_never_fail(
    runtime: RunningRuntime,
) -> None:
    def commands(session: int) -> set[bool]:
        shell = Shell(runtime, f"of-sixteen-{session}")
        right = {shell.prints(f"echo {session}-{n}") == f"{session}-{n}\n" for n in range(150)}
        runtime.client.end_session(shell.session.name)
        return right

    with ThreadPoolExecutor(16) as pool:
        assert set().union(*pool.map(commands, range(16))) == {True}


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("exit 42", 42),
        ("echo bye; exit", 0),
        ("kill -9 $$", 137),
        ("set -e; false", 1),
        ("exec sh -c 'exit 5'", 5),
    ],
)
def test_a_command_that_ends_the_shell_says_so_and_the_next_has_a_fresh_one(
    shell: Shell, command: str, exit_code: int
) -> None:
    shell.run("marker=old; cd /usr")

    run = shell.run(command)
    after = shell.run("echo marker=[$marker]; pwd")

    assert (run.error.code, run.error.exit_code) == ("session_exited", exit_code)
    assert (run.stdout, run.stderr) == ("bye\n" if "bye" in command else "", "")
    assert after.stdout == f"marker=[]\n{shell.runtime.workspace}\n"
    assert after.start.session_restarted
    assert not shell.run("true").start.session_restarted


def test_what_a_shell_prints_while_it_exits_is_kept(shell: Shell) -> None:
    run = shell.run("trap 'echo bye; echo err >&2' EXIT; exit 3")

    assert (run.stdout, run.stderr, run.error.exit_code) == ("bye\n", "err\n", 3)


def test_a_session_whose_directory_is_missing_starts_in_the_workspace(
    runtime: RunningRuntime,
) -> None:
    session = Session(name="lost", cwd="/nonesuch")

    run = runtime.run(ExecRequest(command="pwd", session=session))

    assert run.stdout == f"{runtime.workspace}\n"


def test_a_session_whose_directory_is_deleted_goes_on(shell: Shell) -> None:
    shell.run("mkdir -p doomed && cd doomed && rmdir ../doomed")

    assert shell.prints("echo on") == "on\n"
    assert shell.prints("pwd", cwd="/usr") == "/usr\n"
    assert shell.prints("ln -s /usr/share ~/doomed; cd ~/doomed; pwd -P") == "/usr/share\n"


# What holds for one command


VALUE = 'it\'s "$HOME" `id`\n  \\ $(id) !! \t end'


def test_a_variable_for_one_command_is_gone_or_restored_after_it(shell: Shell) -> None:
    shell.run("export OVER=$'o\\'\"$\\nld'; plain=kept")
    env = {"OVER": VALUE, "plain": "p", "NEW": "", "GONE": VALUE}

    during = shell.prints(
        'printf "%s|" "$OVER" "$plain" "${NEW-unset}"; '
        "OVER=changed; export NEW=more; unset GONE; printenv OVER",
        env=env,
    )

    assert during == f"{VALUE}|p||changed\n"
    after = shell.prints(
        'printf "%s|" "$OVER" "$plain" "${NEW-unset}" "${GONE-unset}"; declare -p plain'
    )
    assert after == 'o\'"$\nld|kept|unset|unset|declare -- plain="kept"\n'


def test_a_variable_that_is_none_for_one_command_is_unset_for_it(shell: Shell) -> None:
    shell.run("export GONE=$'a\\'b\\nc'; list=(1 '2 3')")

    during = shell.prints(
        'echo "${GONE-unset} ${list-unset} ${never-unset}"; GONE=new',
        env={"GONE": None, "list": None, "never": None},
    )

    assert during == "unset unset unset\n"
    assert shell.prints('printenv GONE; echo "${list[1]} ${never-unset}"') == "a'b\nc\n2 3 unset\n"


def test_what_holds_for_one_command_is_undone_however_it_ends(shell: Shell) -> None:
    for command in ("echo ${nope?}", "kill -INT $$", "}", "false"):
        shell.run(command, env={"A": "1", "PATH": None}, cwd="/usr")

        assert shell.prints('echo "${A-unset} $PWD"; ls > /dev/null') == (
            f"unset {shell.runtime.workspace}\n"
        )


def test_a_directory_for_one_command_is_left_after_it(shell: Shell) -> None:
    shell.run("cd /usr/share; CDPATH=/; export CDPATH")

    assert shell.prints("pwd; cd /var", cwd="/usr/bin") == "/usr/bin\n"
    assert shell.prints("pwd; x=set", cwd="..") == "/usr\n"
    assert shell.prints("pwd; echo $x") == "/usr/share\nset\n"


def test_in_a_directory_that_is_missing_nothing_is_run(shell: Shell) -> None:
    run = shell.run("touch ~/ran", cwd="/none such'dir")

    assert run.complete.exit_code == 1
    assert run.stderr == "bash: cd: /none such'dir: No such file or directory\n"
    assert shell.prints("test ! -e ~/ran && pwd") == f"{shell.runtime.workspace}\n"


@pytest.mark.parametrize("name", ["1A", "A B", "A;rm", "", "A=", "Ä", "A\n"])
def test_a_name_that_no_variable_can_have_is_refused(shell: Shell, name: str) -> None:
    with pytest.raises(InvalidRequest):
        shell.run("true", env={name: "x"})
    with pytest.raises(InvalidRequest):
        shell.runtime.run(ExecRequest(command="true", session=Session(env={name: "x"})))


@pytest.mark.parametrize(
    "request_",
    [
        ExecRequest(),
        ExecRequest(command="a", argv=["b"]),
        ExecRequest(argv=[]),
        ExecRequest(command="a\0b"),
        ExecRequest(argv=["a\0b"]),
        ExecRequest(command="a", cwd="\0"),
        ExecRequest(command="a", env={"A": "\0"}),
        ExecRequest(command="a" * (1024 * 1024 + 1)),
        ExecRequest(command="a", stdin="a" * (4 * 1024 * 1024 + 1)),
        ExecRequest(command="a", session=Session(name="")),
    ],
)
def test_a_request_that_no_session_could_run_is_refused(
    runtime: RunningRuntime, request_: ExecRequest
) -> None:
    with pytest.raises(InvalidRequest):
        runtime.run(request_)


def test_a_session_s_variables_are_the_user_s_to_change_and_set_again_when_they_differ(
    shell: Shell,
) -> None:
    shell.session = msgspec.structs.replace(shell.session, env={"A": VALUE, "B": "b", "HOME": "/"})
    assert shell.prints('printf "%s|" "$A" "$B" "$HOME"; B=mine') == f"{VALUE}|b|/|"
    assert shell.prints("echo $B") == "mine\n"

    shell.session = msgspec.structs.replace(shell.session, env={"A": "new", "C": "c"})

    assert shell.prints('echo "$A $B $C"; printenv A C') == "new  c\nnew\nc\n"


# Programs without a shell


def test_an_argument_list_is_taken_literally(shell: Shell) -> None:
    words = ["a b", "it's", "$HOME", "`id`", ";", "x\ny", "\t", "\\", "", "*", "é"]

    run = shell.run(argv=["printf", "<%s>", *words])

    assert run.stdout == "".join(f"<{word}>" for word in words)
    assert run.start.command is not None
    assert "'a b'" in run.start.command


def test_an_argument_list_has_its_own_directory_variables_and_stdin(shell: Shell) -> None:
    run = shell.run(
        argv=["sh", "-c", 'pwd; echo "$A-${HOME-unset}"; cat; exit 3'],
        cwd="/usr",
        env={"A": VALUE, "HOME": None},
        stdin="in\n",
    )

    assert run.stdout == f"/usr\n{VALUE}-unset\nin\n"
    assert run.complete.exit_code == 3


@pytest.mark.parametrize(
    ("argv", "cwd", "exit_code", "stderr"),
    [
        (["nonesuch"], None, 127, "nonesuch: command not found\n"),
        (["/etc/passwd"], None, 126, "/etc/passwd: Permission denied\n"),
        (["true"], "/nonesuch", 1, "cannot change to directory '/nonesuch': "),
        (["sh", "-c", "kill -9 $$"], None, 137, ""),
    ],
)
def test_an_argument_list_that_cannot_be_run_fails_as_in_a_shell(
    shell: Shell, argv: list[str], cwd: str | None, exit_code: int, stderr: str
) -> None:
    run = shell.run(argv=argv, cwd=cwd)

    assert run.complete.exit_code == exit_code
    assert run.stderr.startswith(stderr)


def test_nothing_outlives_a_program_that_was_run_by_its_argument_list(shell: Shell) -> None:
    run = shell.run(argv=["sh", "-c", "setsid sleep 1000 & echo $!; echo x > /dev/stdout"])

    pid = run.stdout.split()[0]
    assert not is_alive(pid)


def test_cancelling_an_argument_list_ends_what_it_started(shell: Shell) -> None:
    def cancel(event: RuntimeEvent) -> None:
        if isinstance(event, Stdout):
            shell.runtime.client.cancel("argv-cancelled", CancelReason.SUPERSEDED)

    request = shell.request(None, argv=["sh", "-c", "trap '' INT; sleep 1000 & echo $!; wait"])
    run = shell.runtime.run(request, execution_id="argv-cancelled", on_event=cancel)

    assert run.error.code == "superseded"
    assert not is_alive(run.stdout.strip())


# Cancellation and time limits


def test_a_command_that_runs_too_long_is_cut_off_and_the_session_keeps_its_state(
    shell: Shell,
) -> None:
    shell.run("cd /usr; x=kept; f() { echo fn; }")

    run = shell.run("echo begun; sleep 500; echo never", timeout_ms=1000)
    after = shell.run("pwd; echo $x; f", timeout_ms=60_000)

    assert (run.error.code, run.stdout) == ("timed_out", "begun\n")
    assert after.stdout == "/usr\nkept\nfn\n"
    assert not after.start.session_restarted


@pytest.mark.parametrize(
    "command",
    [
        "while :; do :; done",
        "sh -c 'trap \"\" INT; while :; do sleep 1; done'",
        "for i in 1 2 3 4; do sh -c 'trap \"exit 0\" INT; sleep 500'; done",
        "cat /dev/zero > /dev/null",
        "yes",
        "sleep 500 | sleep 600 & wait",
        "x=$(sleep 500)",
        "trap 'echo caught' INT; sleep 500",
    ],
)
def test_a_time_limit_ends_any_command_and_keeps_the_shell(shell: Shell, command: str) -> None:
    shell.run("kept=yes")

    run = shell.run(command, timeout_ms=200, output_limit_bytes=1000)
    after = shell.run("trap - INT; echo $kept", timeout_ms=60_000)

    assert run.error.code == "timed_out"
    assert (after.stdout, after.start.session_restarted) == ("yes\n", False)


def test_a_shell_that_does_not_come_back_is_replaced(shell: Shell) -> None:
    run = shell.run("trap '' INT; while :; do :; done", timeout_ms=200)
    after = shell.run("echo on")

    assert run.error.code == "timed_out"
    assert (after.stdout, after.start.session_restarted) == ("on\n", True)


def test_cancelling_ends_every_process_of_the_command_and_none_of_an_earlier_one(
    shell: Shell,
) -> None:
    earlier = shell.prints("sleep 1000 & echo $!").strip()

    def cancel(event: RuntimeEvent) -> None:
        if isinstance(event, Stdout):
            shell.runtime.client.cancel("cancelled", CancelReason.CANCELLED)

    request = shell.request("sleep 1000 & echo $!; setsid -f sh -c 'echo $$; sleep 1000'; sleep 9")
    run = shell.runtime.run(request, execution_id="cancelled", on_event=cancel)

    assert run.error.code == "cancelled"
    assert not any(is_alive(pid) for pid in run.stdout.split())
    assert shell.prints(f"kill -0 {earlier} && echo alive") == "alive\n"


def test_a_command_that_waits_for_its_session_can_be_cancelled(shell: Shell) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shell.run, "touch running; sleep 1; echo first")
        wait_until((shell.runtime.workspace / "running").exists)
        second = pool.submit(shell.run, "touch never", timeout_ms=100)

        assert second.result().error.code == "timed_out"
        assert not first.done()
        assert first.result().stdout == "first\n"
    assert not (shell.runtime.workspace / "never").exists()


def test_cancelling_what_has_ended_does_nothing(shell: Shell) -> None:
    runtime = shell.runtime
    with runtime.client.execution("over", shell.request("true"), boot_id=None) as reader:
        list(reader)

    runtime.client.cancel("over", CancelReason.CANCELLED)

    assert runtime.run(shell.request("true"), execution_id="over").complete.exit_code == 0


# Streaming


def test_output_is_told_when_it_is_written(shell: Shell) -> None:
    arrived: list[float] = []

    shell.runtime.run(
        shell.request("printf a; sleep 0.5; printf b; sleep 0.5; printf c"),
        on_event=lambda event: arrived.append(time.monotonic()),
    )

    start, a, b, c, _end = arrived
    assert a - start < 0.3
    assert b - a > 0.4
    assert c - b > 0.4


def test_three_hundred_short_streams_are_all_right(shell: Shell) -> None:
    runs = [shell.run("echo hi") for _ in range(300)]

    assert {(run.stdout, run.complete.exit_code) for run in runs} == {("hi\n", 0)}


def test_an_execution_goes_on_without_its_reader_and_can_be_read_again(shell: Shell) -> None:
    runtime = shell.runtime
    request = shell.request("for i in 1 2 3 4; do echo $i; sleep 0.1; done")
    for _ in range(10):
        with runtime.client.execution("left", request, boot_id=None) as reader:
            first = next(iter(reader))[0]

    run = runtime.run(request, execution_id="left")

    assert isinstance(first.event, Start)
    assert run.stdout == "1\n2\n3\n4\n"


def test_a_reader_resumes_after_the_event_that_it_has(shell: Shell) -> None:
    request = shell.request("echo one; sleep 0.1; echo two")
    with shell.runtime.client.execution("resumed", request, boot_id=None) as reader:
        everything = [numbered for batch in reader for numbered in batch]

    run = shell.runtime.run(request, execution_id="resumed", after=2)

    assert [numbered.n for numbered in everything] == list(range(1, len(everything) + 1))
    assert run.events == [numbered.event for numbered in everything[2:]]


def test_a_quiet_command_s_stream_is_kept_alive_by_empty_lines(shell: Shell) -> None:
    body = msgspec.json.encode(shell.request("sleep 5.5"))
    lines = raw_put(shell.runtime, "quiet", body).split(b"\r\n")

    assert b"\n" in lines
    assert b'"type":"complete"' in lines[-4]


def test_an_unread_output_stops_the_program_and_costs_no_more_than_the_bound(
    shell: Shell,
) -> None:
    runtime = shell.runtime
    rss_mb = runtime.rss_mb()
    limit = 256 * 1024 * 1024
    request = shell.request("yes | head -c 150M; touch written", output_limit_bytes=limit)

    with runtime.client.execution("unread", request, boot_id=None, after=10**6):
        wait_until(lambda: runtime.rss_mb() - rss_mb > 20)
        time.sleep(0.3)
        assert not (runtime.workspace / "written").exists()
        assert runtime.rss_mb() - rss_mb < MEMORY_MARGIN_MB

    run = runtime.run(request, execution_id="unread")
    assert len(run.stdout) == 150 * 1024 * 1024
    assert runtime.rss_mb() - rss_mb < MEMORY_MARGIN_MB


# Executions


def test_starting_twice_runs_once(shell: Shell) -> None:
    request = shell.request("echo run >> runs; sleep 0.2; cat runs")

    with ThreadPoolExecutor(2) as pool:
        runs = list(
            pool.map(lambda _: read_without_acknowledging(shell.runtime, "twice", request), "ab")
        )

    assert runs[0].events == runs[1].events
    assert runs[0].stdout == "run\n"


def test_another_request_of_the_same_id_is_a_conflict(shell: Shell) -> None:
    read_without_acknowledging(shell.runtime, "taken", shell.request("true"))

    with pytest.raises(ExecutionConflict):
        shell.runtime.run(shell.request("false"), execution_id="taken")


def test_what_was_acknowledged_to_its_end_is_not_run_again(shell: Shell) -> None:
    request = shell.request("echo once >> once")
    shell.runtime.run(request, execution_id="once")

    with pytest.raises(ExecutionForgotten):
        shell.runtime.run(request, execution_id="once")

    assert (shell.runtime.workspace / "once").read_text() == "once\n"


def test_reading_what_was_acknowledged_is_refused(shell: Shell) -> None:
    request = shell.request("echo x")
    read_without_acknowledging(shell.runtime, "partly", request)
    shell.runtime.client.acknowledge({"partly": 2})

    with pytest.raises(ExecutionForgotten):
        shell.runtime.run(request, execution_id="partly")

    assert shell.runtime.run(request, execution_id="partly", after=2).complete.exit_code == 0


def test_an_execution_that_was_never_started_is_not_found(runtime: RunningRuntime) -> None:
    with pytest.raises(ExecutionNotFound):
        runtime.client.cancel("never", CancelReason.CANCELLED)


def test_acknowledging_passes_over_what_is_not_known(shell: Shell) -> None:
    read_without_acknowledging(shell.runtime, "known", shell.request("echo x"))

    shell.runtime.client.acknowledge({"never": 1, "known": 2})

    (status,) = [s for s in shell.runtime.client.executions() if s.id == "known"]
    assert status.acknowledged_n == 2


def test_the_list_of_executions_says_how_far_each_is(shell: Shell) -> None:
    read_without_acknowledging(shell.runtime, "listed", shell.request("echo x"))
    shell.runtime.client.acknowledge({"listed": 1})

    (status,) = [s for s in shell.runtime.client.executions() if s.id == "listed"]

    assert (status.running, status.last_n, status.acknowledged_n) == (False, 3, 1)
    assert shell.session.name in shell.runtime.client.ping().sessions


def test_a_runtime_that_was_started_anew_refuses_what_was_meant_for_the_former(
    runtime: RunningRuntime, shell: Shell
) -> None:
    boot_id = runtime.client.ping().boot_id
    with runtime.client.execution("same", shell.request("true"), boot_id=boot_id) as reader:
        list(reader)

    with (
        running_runtime() as another,
        pytest.raises(SandboxRestarted),
        another.client.execution("same", shell.request("true"), boot_id=boot_id),
    ):
        pass


def test_a_runtime_that_is_told_to_end_tells_its_readers_and_leaves_nothing() -> None:
    with running_runtime() as runtime:
        shell = Shell(runtime, "last")
        pid = shell.prints("setsid sleep 1000 & echo $!").strip()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(shell.run, "touch begun; sleep 1000")
            wait_until((runtime.workspace / "begun").exists)
            os.kill(runtime.pid, signal.SIGTERM)

            assert running.result().error.code == "sandbox_lost"
        wait_until(lambda: not is_alive(str(runtime.pid)))
    assert not is_alive(pid)


# The border


def test_without_the_token_nothing_is_answered(runtime: RunningRuntime) -> None:
    for token in ("", "wrong"):
        client = type(runtime.client)(runtime.socket, token)
        with pytest.raises(NotAuthorized):
            client.ping()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"kind":"exec","nope":1}', b'{"kind":"x"}'])
def test_a_body_that_cannot_be_read_is_refused_as_a_fault_of_ours(
    runtime: RunningRuntime, body: bytes
) -> None:
    answer = raw_put(runtime, "unreadable", body)

    assert answer.startswith(b"HTTP/1.1 422 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "invalid_request"


@pytest.mark.skipif(not IS_ROOT, reason="without root the user is the runtime's own")
def test_the_user_can_neither_read_nor_signal_nor_reach_the_runtime(shell: Shell) -> None:
    pid = shell.runtime.pid
    directory = shell.runtime.workspace.parent

    for command in (
        f"kill -9 {pid}",
        f"cat /proc/{pid}/environ",
        f"ls /proc/{pid}/fd",
        f"ls {directory}/socket",
        f"ls {shell.runtime.scratch}",
        "cat /proc/$PPID/mem",
    ):
        assert shell.run(command).complete.exit_code != 0, command
    assert shell.prints("id -u; id -G; umask; cat /proc/$$/oom_score_adj") == (
        f"{shell.runtime.uid}\n{shell.runtime.uid}\n0022\n1000\n"
    )
    assert "NoNewPrivs:\t1" in shell.prints("cat /proc/self/status")


def test_the_user_s_programs_inherit_nothing_of_ours(shell: Shell) -> None:
    assert shell.prints("ls /proc/self/fd").split() == ["0", "1", "2", "3"]
    assert shell.run(argv=["ls", "/proc/self/fd"]).stdout.split() == ["0", "1", "2", "3"]
    assert "COLDFRAME" not in shell.prints("env")
    ignored = shell.prints("grep SigIgn /proc/self/status").split()[1]
    assert int(ignored, 16) & 0b11 == 0  # SIGHUP and SIGINT


@pytest.mark.parametrize(
    ("confined", "cgroups"), [(True, True), (False, False)], ids=["confined", "no cgroups"]
)
def test_it_works_with_the_rights_of_a_container_and_without_cgroups(
    confined: bool, cgroups: bool
) -> None:
    with running_runtime(confined=confined, cgroups=cgroups) as runtime:
        shell = Shell(runtime, "confined")
        earlier = shell.prints("sleep 1000 & echo $!").strip()

        assert shell.prints("id -u") == f"{runtime.uid}\n"
        assert shell.prints("cat", stdin="x") == "x"
        cut = shell.run("sleep 999 & echo $!; sh -c 'trap : INT; sleep 9' | cat", timeout_ms=300)
        assert (cut.error.code, is_alive(cut.stdout.strip())) == ("timed_out", False)
        assert is_alive(earlier)
        assert shell.run(argv=["echo", "hi"]).stdout == "hi\n"
        assert shell.prints("sleep 1000 & echo hi > /dev/stdout") == "hi\n"
        assert shell.run("exit 3").error.exit_code == 3
        runtime.client.end_session("confined")
        assert not is_alive(earlier)


def test_a_path_without_bash_is_told_as_what_it_is(runtime: RunningRuntime) -> None:
    session = Session(name="no bash", cwd="/", env={"PATH": "/nonexistent"})

    run = runtime.run(ExecRequest(command="true", session=session))

    assert run.error.code == "shell_missing"
    assert "bash" in run.error.hint


def is_alive(pid: str) -> bool:
    """Whether it runs; a zombie that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def read_without_acknowledging(
    runtime: RunningRuntime, execution_id: str, request: ExecRequest
) -> Run:
    with runtime.client.execution(execution_id, request, boot_id=None) as reader:
        return Run([numbered.event for batch in reader for numbered in batch])


def raw_put(runtime: RunningRuntime, execution_id: str, body: bytes) -> bytes:
    """The whole answer, as it is on the wire."""
    head = (
        f"PUT /executions/{execution_id} HTTP/1.1\r\nHost: runtime\r\nConnection: close\r\n"
        f"Authorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with connect_guarded(runtime.socket, timeout_s=10) as connection:
        connection.sendall(head.encode() + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))
