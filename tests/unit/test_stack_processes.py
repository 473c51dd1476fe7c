"""Programs that outlive the command that started them, and only they, are found and ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from stack.deadline import wait_until
from stack.ports import accepts, free_port, is_free
from stack.process_identity import ProcessIdentity, identify
from stack.processes import LOG_LIMIT_BYTES, Processes, RunningProgram
from stack.programs import Program, ProgramName

SLEEP = Program(name=ProgramName.WORKER, argv=("sleep", "60"))
STUBBORN = Program(
    name=ProgramName.WORKER,
    argv=(
        sys.executable,
        "-c",
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n",
    ),
)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = _processes(tmp_path)
    yield made
    for name in ProgramName:
        made.stop(name, grace_s=0.1)


def test_a_program_is_found_by_another_command(processes: Processes, tmp_path: Path) -> None:
    processes.start(SLEEP)

    found = _processes(tmp_path).find(ProgramName.WORKER)

    assert found is not None
    assert os.getsid(found.identity.pid) == found.identity.pid


def test_a_program_that_is_up_to_date_is_left_alone(processes: Processes) -> None:
    processes.start(SLEEP)
    before = processes.find(ProgramName.WORKER)

    started = processes.ensure(SLEEP)

    assert not started
    assert processes.find(ProgramName.WORKER) == before


def test_a_program_that_is_out_of_date_is_started_anew(processes: Processes) -> None:
    processes.start(SLEEP)
    before = processes.find(ProgramName.WORKER)
    assert before is not None

    started = processes.ensure(
        Program(name=ProgramName.WORKER, argv=("sleep", "60"), version="newer")
    )

    assert started
    assert not before.identity.is_running


def test_a_program_that_ignores_sigterm_is_killed_with_all_that_it_started(
    processes: Processes,
) -> None:
    processes.start(STUBBORN)
    assert wait_until(lambda: bool(processes.last_lines(ProgramName.WORKER, 1)), timeout_s=10)
    child = identify(int(processes.last_lines(ProgramName.WORKER, 1)))
    assert child is not None

    processes.stop(ProgramName.WORKER, grace_s=0.1)

    assert processes.find(ProgramName.WORKER) is None
    assert wait_until(lambda: not child.is_running, timeout_s=10)


def test_a_pid_that_was_given_to_another_program_is_never_ended(
    processes: Processes, tmp_path: Path
) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        identity = identify(stranger.pid)
        assert identity is not None
        _write_pid_file(tmp_path, msgspec.structs.replace(identity, started_ticks=1))

        ran = processes.stop(ProgramName.WORKER, grace_s=0.1)

        assert not ran
        assert stranger.poll() is None
        stranger.kill()


def test_a_pid_from_before_the_machines_last_boot_is_nobody(
    processes: Processes, tmp_path: Path
) -> None:
    own = identify(os.getpid())
    assert own is not None
    _write_pid_file(tmp_path, msgspec.structs.replace(own, boot_id="another boot"))

    assert processes.find(ProgramName.WORKER) is None


def test_a_pid_file_that_cannot_be_read_is_no_program(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/worker.json").write_text("12345")

    assert processes.find(ProgramName.WORKER) is None


def test_a_program_that_has_ended_by_itself_is_not_running(processes: Processes) -> None:
    processes.start(Program(name=ProgramName.BEAT, argv=("sh", "-c", "echo bye; exit 3")))

    assert wait_until(lambda: processes.find(ProgramName.BEAT) is None, timeout_s=10)

    assert processes.last_lines(ProgramName.BEAT, 5) == "bye"


def test_a_log_that_has_grown_long_is_put_aside_at_the_next_start(
    processes: Processes, tmp_path: Path
) -> None:
    log = processes.log_path(ProgramName.WORKER)
    log.parent.mkdir()
    with log.open("wb") as file:
        file.truncate(LOG_LIMIT_BYTES + 1)

    processes.start(SLEEP)

    assert log.stat().st_size == 0
    assert (tmp_path / "logs/worker.log.1").stat().st_size == LOG_LIMIT_BYTES + 1


def test_a_free_port_is_one_that_can_be_listened_on() -> None:
    port = free_port()

    assert is_free("127.0.0.1", port)
    assert not accepts("127.0.0.1", port)


def _processes(directory: Path) -> Processes:
    return Processes(
        run_dir=directory / "run",
        log_dir=directory / "logs",
        working_dir=directory,
        inherited={"PATH": os.environ["PATH"]},
    )


def _write_pid_file(directory: Path, identity: ProcessIdentity) -> None:
    (directory / "run").mkdir()
    running = RunningProgram(identity=identity, fingerprint="", started_at="")
    (directory / "run/worker.json").write_bytes(msgspec.json.encode(running))
