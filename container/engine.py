"""Finds the Docker engine, or installs and starts one: `python -m container.engine`."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import DockerException

from container import debian_packages
from container.errors import ContainerError, EngineUnavailable, report

ANSWER_TIMEOUT_S = 10.0  # how long an engine may take over one answer
START_TIMEOUT_S = (
    60.0  # how long a new dockerd may take until it answers; the first start makes its directories
)
OTHER_ENGINE_S = 10.0  # how long to wait for another dockerd's answer after ours gave way to it
POLL_INTERVAL_S = 0.2
SYSTEMCTL_TIMEOUT_S = 120.0
LOG_NAME = "dockerd.log"
SHOWN_LOG_LINES = 15

OPTIONS = ("--live-restore",)  # of an engine of ours: sandboxes outlive it, however it ends
CONTAINERD_END_S = 5.0

_EXEC_ROOT = Path("/var/run/docker")
_DAEMON_CONFIG = Path("/etc/docker/daemon.json")
_NO_INIT = "N/A"  # what an engine says of docker-init's version where it cannot run it


def connect(*, timeout_s: float = ANSWER_TIMEOUT_S) -> docker.DockerClient:
    """A client of the engine at DOCKER_HOST, or at the default socket.

    `timeout_s` bounds each silence of the engine. Whoever asks for the client closes it.
    EngineUnavailable where none answers.
    """
    try:
        return docker.from_env(timeout=int(timeout_s))
    except DockerException as error:
        where = os.environ.get("DOCKER_HOST", "the default socket")
        message = f"No Docker engine answers at {where}: {error}"
        raise EngineUnavailable(message, hint=_how_to_get_an_answer()) from error


def ensure_engine(state_dir: Path, progress: Callable[[str], None]) -> str:
    """The version of an engine that answers and can run containers with an init."""
    try:
        connect().close()
    except EngineUnavailable:
        if not _may_start():
            raise
        if shutil.which("dockerd") is None:
            debian_packages.install(["docker.io"], progress=progress)
        _start(state_dir, progress)
    return _version()


def forget_dead_containerd(exec_root: Path) -> None:
    """Have a dockerd that is to be started not wait for the containerd of one that was killed.

    It takes whatever process has the id in this file for its containerd, one that is just ending
    too, and gives up when that does not answer.
    """
    pid_file = exec_root / "containerd" / "containerd.pid"
    deadline = time.monotonic() + CONTAINERD_END_S
    while _names_containerd(pid_file):
        if time.monotonic() > deadline:
            return  # It lives, and will be used.
        time.sleep(POLL_INTERVAL_S)
    pid_file.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m container.engine", description=__doc__)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".coldframe"), help="where dockerd.log is written"
    )
    options = parser.parse_args(arguments)
    try:
        version = ensure_engine(options.state_dir, _print_line)
    except ContainerError as error:
        return report(error)
    print(f"Docker engine {version} answers.")
    return 0


def _version() -> str:
    client = connect()
    try:
        version = str(client.version()["Version"])
        init_version = client.info().get("InitCommit", {}).get("ID")
    except (DockerException, OSError) as error:
        message = f"The Docker engine broke off: {error}"
        raise EngineUnavailable(message, hint=_how_to_get_an_answer()) from error
    finally:
        client.close()
    if init_version == _NO_INIT:
        raise EngineUnavailable(
            f"Docker engine {version} has no docker-init, and sandboxes run under one.",
            hint="Install it where the engine runs; on Debian: "
            "apt-get install --reinstall docker.io tini",
        )
    return version


def _may_start() -> bool:
    """Not where DOCKER_HOST is set: an engine of our own would not be the one asked for."""
    return "DOCKER_HOST" not in os.environ and debian_packages.can_install()


def _start(state_dir: Path, progress: Callable[[str], None]) -> None:
    if Path("/run/systemd/system").exists():
        _start_service(progress)
        if not _answers_within(START_TIMEOUT_S):
            raise EngineUnavailable("dockerd does not answer.", hint="See: journalctl -u docker")
        return
    state_dir.mkdir(parents=True, exist_ok=True)
    log_path = (state_dir / LOG_NAME).resolve()
    dockerd = _start_detached(log_path, progress)
    if not _answers_within(START_TIMEOUT_S, dockerd):
        hint = f"Its log, {log_path}, ends with:{_end_of_log(log_path)}"
        raise EngineUnavailable("dockerd was started, but does not answer.", hint=hint)


def _start_service(progress: Callable[[str], None]) -> None:
    progress("starting docker.service")
    try:
        subprocess.run(
            ["systemctl", "enable", "--now", "docker"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_TIMEOUT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        message = f"systemd could not start docker.service: {error}"
        raise EngineUnavailable(message, hint="See: journalctl -u docker") from error


def _start_detached(log_path: Path, progress: Callable[[str], None]) -> subprocess.Popen[bytes]:
    """Start dockerd so that it outlives this program.

    Where another one is just coming up (the package's own init script may have started it), ours
    sees its pid file and ends; the wait that follows is then for the other one.
    """
    progress(f"starting dockerd (log: {log_path})")
    forget_dead_containerd(_EXEC_ROOT)
    # An operator's own file decides alone: dockerd refuses what is said in both.
    options = () if _DAEMON_CONFIG.exists() else OPTIONS
    with log_path.open("ab") as log:
        return subprocess.Popen(
            ["dockerd", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )


def _names_containerd(pid_file: Path) -> bool:
    try:
        status = Path("/proc", str(int(pid_file.read_text())), "status").read_text()
    except (OSError, ValueError):
        return False
    return "Name:\tcontainerd\n" in status and "State:\tZ" not in status


def _answers_within(timeout_s: float, dockerd: subprocess.Popen[bytes] | None = None) -> bool:
    """Wait for an answer; a little longer once `dockerd`, if it is ours to watch, has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            connect().close()
        except EngineUnavailable:
            if dockerd is not None and dockerd.poll() is not None:
                deadline = min(deadline, time.monotonic() + OTHER_ENGINE_S)
                dockerd = None
            time.sleep(POLL_INTERVAL_S)
        else:
            return True
    return False


def _end_of_log(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()
    telling = [line for line in lines if "level=info" not in line]
    return "".join(f"\n  {line}" for line in telling[-SHOWN_LOG_LINES:])


def _how_to_get_an_answer() -> str:
    if "DOCKER_HOST" in os.environ:
        return "Start the engine that DOCKER_HOST names, or unset it to use this machine's own."
    if Path("/var/run/docker.sock").exists() and os.geteuid() != 0:
        return "Start it; if it runs, join its group (usermod -aG docker $USER) and log in again."
    if debian_packages.can_install():
        return "Install and start one: make engine"
    return "Install Docker Engine and start it, or run `make engine` as root on Debian."


def _print_line(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
