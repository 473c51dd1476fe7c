"""Runs programs that outlive the command that started them.

run/<name>.json   which process a program is, and how it was started
logs/<name>.log   what it prints; what it printed before is in <name>.log.1
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from stack.private_file import write_private
from stack.process_identity import ProcessIdentity, identify
from stack.programs import Program, ProgramName

LOG_LIMIT_BYTES = 16 * 1024 * 1024
"""A longer log is put aside when its program starts."""


class RunningProgram(msgspec.Struct, frozen=True):
    """A program that was started."""

    identity: ProcessIdentity
    fingerprint: str
    """Of the `Program` as it was then."""
    started_at: str


class Processes:
    """The programs of one state directory."""

    def __init__(
        self, *, run_dir: Path, log_dir: Path, working_dir: Path, inherited: Mapping[str, str]
    ) -> None:
        self._run_dir = run_dir
        self._log_dir = log_dir
        self._working_dir = working_dir
        self._inherited = inherited
        self._children: dict[ProgramName, subprocess.Popen[bytes]] = {}

    def find(self, name: ProgramName) -> RunningProgram | None:
        """None: it does not run, whatever its pid file says."""
        try:
            text = self._pid_file(name).read_bytes()
            found = msgspec.json.decode(text, type=RunningProgram)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found if found.identity.is_running else None

    def ensure(self, program: Program) -> bool:
        """Have just this program running; whether it had to be started."""
        running = self.find(program.name)
        if running is not None:
            if running.fingerprint == program.fingerprint:
                return False
            self.stop(program.name, grace_s=program.grace_s)
        self.start(program)
        return True

    def start(self, program: Program) -> None:
        for directory in (self._run_dir, self._log_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_path = self.log_path(program.name)
        if log_path.exists() and log_path.stat().st_size > LOG_LIMIT_BYTES:
            log_path.replace(log_path.with_name(f"{log_path.name}.1"))
        with log_path.open("ab") as log:
            child = subprocess.Popen(
                program.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._working_dir,
                env=program.environment(self._inherited),
                start_new_session=True,
            )
        self._children[program.name] = child
        identity = identify(child.pid)
        if identity is None:
            return  # It has ended already: `find` says so, and its log says why.
        running = RunningProgram(
            identity=identity,
            fingerprint=program.fingerprint,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_private(self._pid_file(program.name), msgspec.json.encode(running).decode())

    def stop(self, name: ProgramName, *, grace_s: float) -> bool:
        """Ends a program and all that it started in its session; whether it ran."""
        running = self.find(name)
        if running is not None:
            running.identity.end(grace_s=grace_s)
        self._forget(name)
        return running is not None

    def kill(self, name: ProgramName) -> None:
        """`kill -9` for the program alone, as an accident would have it."""
        running = self.find(name)
        if running is not None:
            running.identity.kill()
        self._forget(name)

    def log_path(self, name: ProgramName) -> Path:
        return self._log_dir / f"{name}.log"

    def last_lines(self, name: ProgramName, count: int) -> str:
        path = self.log_path(name)
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 64 * 1024))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def _forget(self, name: ProgramName) -> None:
        self._pid_file(name).unlink(missing_ok=True)
        child = self._children.pop(name, None)
        if child is not None:
            child.wait(timeout=10)

    def _pid_file(self, name: ProgramName) -> Path:
        return self._run_dir / f"{name}.json"
