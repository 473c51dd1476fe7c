"""The platform on one machine: starts its programs in order and ends them in reverse."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from docker.errors import DockerException

from container.ca_bundle import find_ca_bundle
from container.engine import connect
from container.errors import ContainerError
from container.image import ensure_sandbox_image
from container.image_names import DEFAULT_IMAGE, read_image_names
from stack import redis_server
from stack.api import Api, ApiFailed
from stack.client_env import ClientEnv, ensure_client_env
from stack.deadline import wait_until
from stack.driver import LOCAL_WARNING, Driver, ensure_driver
from stack.environment import Wanted, ensure_environment
from stack.errors import (
    PortTaken,
    ProgramFailed,
    RedisFailed,
    SandboxesLeft,
    StateBusy,
    StateDirUnusable,
)
from stack.ports import is_free
from stack.processes import Processes
from stack.programs import (
    GRACE_S,
    REDIS_GRACE_S,
    SOURCES,
    Platform,
    Program,
    ProgramName,
    platform_programs,
    platform_settings,
)
from stack.settings import StackSettings
from stack.source_digest import source_digest

REPOSITORY = Path(__file__).parents[1]
USER_REQUIREMENTS = REPOSITORY / "container" / "sandbox" / "user-requirements.txt"

REDIS_START_S = 30.0  # it reads its data first
READY_S = 60.0
REMOVE_SANDBOXES_S = 300.0
SHOWN_LOG_LINES = 20
SOCKET_PATH_LIMIT = 107  # bytes, the kernel's


class Stack:
    """One platform: all that it keeps lies in its state directory.

    Several can live on one machine, each with its own state directory and port.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        progress: Callable[[str], None],
        inherited: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings = settings
        self._progress = progress
        self._inherited = inherited
        self.processes = Processes(
            run_dir=settings.run_dir,
            log_dir=settings.log_dir,
            working_dir=REPOSITORY,
            inherited=inherited,
        )

    @property
    def client_env(self) -> ClientEnv:
        """The API's address and key; made at the first call."""
        self._make_state_dir()
        return ensure_client_env(self.settings.state_dir, self.settings.url)

    @property
    def driver(self) -> Driver | None:
        """What the last `up` chose; None before the first one."""
        path = self.settings.state_dir / "driver"
        return Driver(path.read_text()) if path.exists() else None

    def chosen_driver(self) -> Driver:
        """What the last `up` chose. Raises `ProgramFailed` where there was none."""
        if self.driver is None:
            raise _never_up()
        return self.driver

    @property
    def image(self) -> str | None:
        """The id of the image that new sandboxes get; None where none was built here."""
        return read_image_names(self.settings.state_dir).get(DEFAULT_IMAGE)

    @property
    def redis_url(self) -> str:
        """The operator's Redis, or where our own listens."""
        if self.settings.redis_url:
            return self.settings.redis_url
        return redis_server.server_url(self._redis_dir)

    def prepare(self) -> Driver:
        """Have all that `up` needs before a program starts: it can take minutes the first time."""
        self._make_state_dir()
        driver = ensure_driver(
            self.settings.driver, state_dir=self.settings.state_dir, progress=self._progress
        )
        if driver is Driver.DOCKER:
            ensure_sandbox_image(
                state_dir=self.settings.state_dir,
                ca_bundle=find_ca_bundle(self.settings.ca_bundle or None),
                progress=lambda line: self._progress(f"image: {line}"),
            )
        else:
            self._progress(f"WARNING: {LOCAL_WARNING}")
            if self.settings.local_python is None:
                ensure_environment(self._local_environment, self._progress)
        return driver

    def up(self) -> None:
        """Have all programs running, up to date and ready."""
        with self._alone():
            driver = self.prepare()
            (self.settings.state_dir / "driver").write_text(driver)
            if self.settings.redis_url:
                redis_server.check_named(self.settings.redis_url)
            else:
                self._ensure_redis()
            self._check_ports()
            for program in self._programs():
                if self.processes.ensure(program):
                    self._progress(f"{program.name}: started")
            self._wait_until_ready()
            self._progress("ready")

    def join(self) -> None:
        """Have what makes this machine a node of a platform whose web is elsewhere."""
        if not self.settings.redis_url:
            raise RedisFailed(
                "A node needs the platform's Redis.", hint="Set COLDFRAME_REDIS_URL to it."
            )
        with self._alone():
            (self.settings.state_dir / "driver").write_text(self.prepare())
            redis_server.check_named(self.settings.redis_url)
            for name in (ProgramName.WORKER, ProgramName.RELAY):
                if self.processes.ensure(self._program(name)):
                    self._progress(f"{name}: started")

    def down(self) -> None:
        """End all programs and remove all sandboxes; data, key and image stay."""
        if not self.settings.state_dir.is_dir():
            return
        with self._alone():
            for name in reversed(ProgramName):
                if name is not ProgramName.REDIS:
                    self._end(name)
            try:
                self._remove_sandboxes()
            finally:
                self._end(ProgramName.REDIS)
                shutil.rmtree(self.settings.run_dir, ignore_errors=True)

    def clean(self) -> None:
        """End everything and forget it: data, key and image too."""
        self.down()
        _remove_images(read_image_names(self.settings.state_dir))
        shutil.rmtree(self.settings.state_dir, ignore_errors=True)

    def start(self, name: ProgramName) -> None:
        """Start one program of a stack that was up; back at once (Redis: when it answers)."""
        if name is ProgramName.REDIS:
            self._ensure_redis()
        else:
            self.processes.ensure(self._program(name))

    def stop(self, name: ProgramName) -> None:
        """End one program as `down` does."""
        self._end(name)

    def kill(self, name: ProgramName) -> None:
        """End one program as an accident does."""
        self.processes.kill(name)

    @property
    def _redis_dir(self) -> Path:
        return self.settings.state_dir / "redis"

    @property
    def _local_environment(self) -> Wanted:
        directory = self.settings.state_dir / "local-python"
        return Wanted(directory, USER_REQUIREMENTS, for_others=True)

    def _make_state_dir(self) -> None:
        longest = redis_server.socket_path(self._redis_dir)
        if len(os.fsencode(longest)) > SOCKET_PATH_LIMIT:
            raise StateDirUnusable(
                f"{longest} is too long for a socket's path.",
                hint="Set COLDFRAME_STATE_DIR to a shorter path.",
            )
        try:
            # What is secret in it has modes of its own; user code has to get to its Python.
            self.settings.state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise StateDirUnusable(
                f"{self.settings.state_dir} cannot be made: {error.strerror}",
                hint="Set COLDFRAME_STATE_DIR to a directory of yours.",
            ) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` of a state directory at a time."""
        self._make_state_dir()
        with (self.settings.state_dir / "stack.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StateBusy(
                    f"Another command is at work on {self.settings.state_dir}.",
                    hint="Wait until it has ended.",
                ) from error
            yield

    def _ensure_redis(self) -> None:
        program = redis_server.server_program(self._redis_dir)
        if self.processes.ensure(program):
            self._progress("redis: started")
        url = redis_server.server_url(self._redis_dir)
        if not wait_until(lambda: redis_server.answers(url), timeout_s=REDIS_START_S):
            raise RedisFailed("Our own Redis does not answer.", hint=self._log_of(program.name))

    def _check_ports(self) -> None:
        ports = {
            ProgramName.WEB: ("COLDFRAME_PORT", self.settings.port),
            ProgramName.RELAY: ("COLDFRAME_PREVIEW_PORT", self.settings.preview_port),
        }
        for program, (setting, port) in ports.items():
            if self.processes.find(program) is None and not is_free(self.settings.host, port):
                raise PortTaken(
                    f"{self.settings.host}:{port} cannot be listened on: another program does, or "
                    "it is not ours.",
                    hint=f"Choose another port, such as {setting}={port + 2}, or end what listens "
                    "there.",
                )

    def _platform(self) -> Platform:
        driver = self.chosen_driver()
        local_python = None
        if driver is Driver.LOCAL:
            local_python = self.settings.local_python or self._local_environment.python
        return Platform(
            settings=self.settings,
            driver=driver,
            redis_url=self.redis_url,
            api_key=self.client_env.api_key,
            local_python=local_python,
            version=source_digest(REPOSITORY, SOURCES),
        )

    def _programs(self) -> tuple[Program, ...]:
        return platform_programs(self._platform(), python=sys.executable)

    def _program(self, name: ProgramName) -> Program:
        return next(program for program in self._programs() if program.name is name)

    def _end(self, name: ProgramName) -> None:
        grace_s = REDIS_GRACE_S if name is ProgramName.REDIS else GRACE_S
        if self.processes.stop(name, grace_s=grace_s):
            self._progress(f"{name}: ended")

    def _wait_until_ready(self) -> None:
        api = Api(self.client_env, timeout_s=5.0)
        said = "nothing yet"

        def is_ready() -> bool:
            nonlocal said
            self._check_alive()
            try:
                status, said = api.status("/readyz")
            except ApiFailed as error:
                said = str(error)
                return False
            sockets = (self.settings.flower_socket, self.settings.relay_socket)
            return status == 200 and all(map(_listens, sockets))

        if not wait_until(is_ready, timeout_s=READY_S):
            guilty = ProgramName.WORKER if said.startswith("{") else ProgramName.WEB
            raise ProgramFailed(
                f"The platform was not ready within {READY_S:.0f} s. It said: {said}",
                hint=self._log_of(guilty),
            )

    def _check_alive(self) -> None:
        for name in ProgramName:
            if name is ProgramName.REDIS and self.settings.redis_url:
                continue
            if self.processes.find(name) is None:
                raise ProgramFailed(f"{name} has ended.", hint=self._log_of(name))

    def _log_of(self, name: ProgramName) -> str:
        lines = self.processes.last_lines(name, SHOWN_LOG_LINES)
        return f"Its log, {self.processes.log_path(name)}, ends with:\n{lines}"

    def _remove_sandboxes(self) -> None:
        """By the worker's own hands: it alone knows what a sandbox is made of."""
        if self.driver is None:
            return
        if not self.settings.redis_url:
            self._ensure_redis()
        command = [sys.executable, "-m", "workers", "remove-sandboxes"]
        worker = Program(
            name=ProgramName.WORKER,
            argv=tuple(command),
            settings=platform_settings(self._platform()),
        )
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=REPOSITORY,
                env=worker.environment(self._inherited),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=REMOVE_SANDBOXES_S,
            )
        except subprocess.TimeoutExpired as error:
            raise SandboxesLeft(
                f"Sandboxes were not removed within {REMOVE_SANDBOXES_S:.0f} s.",
                hint="Try again: make down",
            ) from error
        if done.returncode != 0:
            raise SandboxesLeft(
                f"Sandboxes could not be removed: {done.stderr.strip()[-1000:]}",
                hint="Mend what it says, then: make down",
            )
        self._progress(done.stdout.strip().splitlines()[-1])


def _never_up() -> ProgramFailed:
    return ProgramFailed("This platform was never up.", hint="Run: make up")


def _remove_images(images: Mapping[str, str]) -> None:
    """Best effort: an engine that is away, or a container that uses an image, keeps it."""
    if not images:
        return
    try:
        client = connect()
    except ContainerError:
        return
    try:
        for image_id in images.values():
            with suppress(DockerException):
                client.images.remove(image_id)
    finally:
        client.close()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
