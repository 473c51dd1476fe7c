"""Makes Python environments that hold what a requirements file names.

`python3 -m stack.environment .venv=requirements.txt …` makes several at once. It runs before
anything is installed: it and what it imports need the standard library alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
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
INSTALL_TIMEOUT_S = 1200.0
SHOWN_LINES = 15


@dataclass(frozen=True, slots=True)
class Wanted:
    """An environment and what is to be in it."""

    directory: Path
    requirements: Path
    compiled: bool = False
    """Compile all modules now, for an environment that its users cannot write to."""

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
        return hashlib.sha256(f"{sys.version}\n".encode() + content).hexdigest()

    @property
    def is_there(self) -> bool:
        return (
            self.python.exists() and self.stamp.is_file() and self.stamp.read_text() == self.digest
        )


def ensure_environment(wanted: Wanted, progress: Callable[[str], None]) -> None:
    """Installs what is missing; nothing is done where the requirements have not changed."""
    if wanted.is_there:
        return
    name = wanted.directory.name
    if not _works(wanted.python):
        shutil.rmtree(wanted.directory, ignore_errors=True)
        progress(f"{name}: making a Python environment")
        _ensure_ensurepip(progress)
        _run([sys.executable, "-m", "venv", str(wanted.directory)], "See what it says.")
    progress(f"{name}: installing {wanted.requirements.name}")
    pip = [str(wanted.python), "-m", "pip", "install", "--quiet", "--no-input"]
    _run(
        [*pip, "--disable-pip-version-check", "--no-compile", "-r", str(wanted.requirements)],
        "See that the package index can be reached (pip config list), then try again.",
    )
    if wanted.compiled:
        progress(f"{name}: compiling")
        library = next((wanted.directory / "lib").glob("python3*"))
        # A package may carry files for other Pythons, which do not compile: no failure.
        compileall = [str(wanted.python), "-m", "compileall", "-q", "-j", "0", str(library)]
        subprocess.run(compileall, check=False, capture_output=True, timeout=INSTALL_TIMEOUT_S)
    wanted.stamp.write_text(wanted.digest)
    progress(f"{name}: ready")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stack.environment", description=__doc__)
    parser.add_argument("--compiled", action="append", default=[], metavar="DIRECTORY=FILE")
    parser.add_argument("wanted", nargs="*", metavar="DIRECTORY=FILE")
    options = parser.parse_args(arguments)
    if sys.version_info < OLDEST_PYTHON:
        sys.stderr.write("Coldframe needs Python 3.11 or newer.\n")
        return 1
    wanted = [_parse(text, compiled=False) for text in options.wanted]
    wanted += [_parse(text, compiled=True) for text in options.compiled]
    progress = Progress(sys.stdout)
    try:
        with progress.step("Python environments"), ThreadPoolExecutor() as pool:
            for _ in pool.map(lambda one: ensure_environment(one, progress), wanted):
                pass
    except StackError as error:
        sys.stderr.write(f"error ({error.code}): {error}\n{error.hint}\n")
        return 1
    return 0


def _parse(text: str, *, compiled: bool) -> Wanted:
    directory, _, requirements = text.partition("=")
    return Wanted(Path(directory).absolute(), Path(requirements).absolute(), compiled)


def _works(python: Path) -> bool:
    """False for no environment, and for one whose Python was removed or has no pip."""
    if not python.exists():
        return False
    asked = subprocess.run(
        [python, "-c", "import pip"], check=False, capture_output=True, timeout=60
    )
    return asked.returncode == 0


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


def _ensure_ensurepip(progress: Callable[[str], None]) -> None:
    """Debian's Python leaves out what `venv` needs: there it is a package of its own."""
    if importlib.util.find_spec("ensurepip") is None:
        try:
            debian_packages.install(["python3-venv"], progress=progress)
        except PackagesUnavailable as error:
            raise EnvironmentFailed(str(error), hint=error.hint) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
