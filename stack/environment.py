"""Makes Python environments that hold what a requirements file names.

`python3 -m stack.environment .venv=requirements.txt …` makes several at once. It runs before
anything is installed: it and what it imports need the standard library alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from container import debian_packages
from container.errors import PackagesUnavailable
from stack.errors import EnvironmentFailed, StackError
from stack.progress import Progress

OLDEST_PYTHON = (3, 11)
SYSTEM_PYTHON = Path("/usr/bin/python3")
INSTALL_TIMEOUT_S = 1200.0
SHOWN_LINES = 15


@dataclass(frozen=True, slots=True)
class Wanted:
    """An environment and what is to be in it."""

    directory: Path
    requirements: Path
    for_others: bool = False
    """Who runs it is another user than we are, and cannot write to it."""

    @property
    def base_python(self) -> Path:
        """The interpreter that it is made from."""
        own = Path(sys.executable).resolve()
        if self.for_others and not _others_can_run(own) and _is_recent(SYSTEM_PYTHON):
            return SYSTEM_PYTHON.resolve()
        return own

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Says what was installed; each requirements file has its own."""
        return self.directory / f".installed-{self.requirements.name}"

    @property
    def digest(self) -> str:
        content = self.requirements.read_bytes()
        return hashlib.sha256(f"{self.base_python}\n".encode() + content).hexdigest()

    @property
    def has_its_base(self) -> bool:
        return self.python.resolve() == self.base_python and self.base_python.exists()

    @property
    def is_there(self) -> bool:
        if not (self.has_its_base and self.stamp.is_file()):
            return False
        return self.stamp.read_text() == self.digest


def ensure_environment(wanted: Wanted, progress: Callable[[str], None]) -> None:
    """Installs what is missing; nothing is done where the requirements have not changed."""
    if wanted.is_there:
        return
    name = wanted.directory.name
    if not (wanted.has_its_base and _works(wanted.python)):
        shutil.rmtree(wanted.directory, ignore_errors=True)
        progress(f"{name}: making a Python environment")
        _ensure_ensurepip(wanted.base_python, progress)
        _run([str(wanted.base_python), "-m", "venv", str(wanted.directory)], "See what it says.")
    progress(f"{name}: installing {wanted.requirements.name}")
    pip = [str(wanted.python), "-m", "pip", "install", "--quiet", "--no-input"]
    _run(
        [*pip, "--disable-pip-version-check", "--no-compile", "-r", str(wanted.requirements)],
        "See that the package index can be reached (pip config list), then try again.",
    )
    if wanted.for_others:
        # What they import first would be compiled anew by each of them, and never kept.
        progress(f"{name}: compiling")
        library = next((wanted.directory / "lib").glob("python3*"))
        # A package may carry files for other Pythons, which do not compile: no failure.
        compileall = [str(wanted.python), "-m", "compileall", "-q", "-j", "0", str(library)]
        subprocess.run(compileall, check=False, capture_output=True, timeout=INSTALL_TIMEOUT_S)
    wanted.stamp.write_text(wanted.digest)
    progress(f"{name}: ready")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stack.environment", description=__doc__)
    parser.add_argument("--for-others", action="append", default=[], metavar="DIRECTORY=FILE")
    parser.add_argument("wanted", nargs="*", metavar="DIRECTORY=FILE")
    options = parser.parse_args(arguments)
    if sys.version_info < OLDEST_PYTHON:
        sys.stderr.write("Coldframe needs Python 3.11 or newer.\n")
        return 1
    wanted = [_parse(text, for_others=False) for text in options.wanted]
    wanted += [_parse(text, for_others=True) for text in options.for_others]
    progress = Progress(sys.stdout)
    try:
        with progress.step("Python environments"), ThreadPoolExecutor() as pool:
            for _ in pool.map(lambda one: ensure_environment(one, progress), wanted):
                pass
    except StackError as error:
        sys.stderr.write(f"error ({error.code}): {error}\n{error.hint}\n")
        return 1
    return 0


def _parse(text: str, *, for_others: bool) -> Wanted:
    directory, _, requirements = text.partition("=")
    return Wanted(Path(directory).absolute(), Path(requirements).absolute(), for_others)


def _others_can_run(program: Path) -> bool:
    """Whether all directories on the way to it are open to everybody."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in program.parents)


def _is_recent(python: Path) -> bool:
    return _succeeds(python, f"import sys; assert sys.version_info >= {OLDEST_PYTHON}")


def _works(python: Path) -> bool:
    """False for no environment, and for one whose Python was removed or has no pip."""
    return _succeeds(python, "import pip")


def _succeeds(python: Path, code: str) -> bool:
    if not python.exists():
        return False
    done = subprocess.run([python, "-c", code], check=False, capture_output=True, timeout=60)
    return done.returncode == 0


def _run(command: list[str], hint: str) -> None:
    # Variables that name another environment would make pip install there.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
            timeout=INSTALL_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        said = "\n".join(error.stdout.strip().splitlines()[-SHOWN_LINES:])
        raise EnvironmentFailed(f"{' '.join(command)} failed:\n{said}", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        message = f"{' '.join(command)} did not end within {INSTALL_TIMEOUT_S:.0f} s."
        raise EnvironmentFailed(message, hint=hint) from error


def _ensure_ensurepip(python: Path, progress: Callable[[str], None]) -> None:
    """Debian's Python leaves out what `venv` needs: there it is a package of its own."""
    if not _succeeds(python, "import ensurepip"):
        try:
            debian_packages.install(["python3-venv"], progress=progress)
        except PackagesUnavailable as error:
            raise EnvironmentFailed(str(error), hint=error.hint) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
