"""The errors of preparing an engine and an image, each with what to do about it.

ContainerError
├── EngineUnavailable        no Docker engine answers, and none could be started
├── EngineFailed             the engine broke off, or refused, what it was asked for
├── PackagesUnavailable      a Debian package is missing and could not be installed
├── BaseImageUnavailable     the base image could neither be pulled nor made
├── BuildInputsInvalid       what the image is made from is missing or unreadable
├── ImageBuildFailed         a step of the Dockerfile failed
├── ImageNamesInvalid        images.toml is not what we write there
├── ImageNameRefused         an image cannot be added, or removed, under this name
├── ImageSourceInvalid       there is neither a Dockerfile nor a tar archive to make an image of
└── ImageUnfit               sandboxes cannot start from the image
"""

import sys
from typing import ClassVar


class ContainerError(Exception):
    """Something the operator can mend: `str()` says what is wrong, `hint` what to do."""

    code: ClassVar[str] = "container_error"

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class EngineUnavailable(ContainerError):
    """No Docker engine answers, and none could be started."""

    code = "engine_unavailable"


class EngineFailed(ContainerError):
    """The engine broke off, or refused, what it was asked for."""

    code = "engine_failed"


class PackagesUnavailable(ContainerError):
    """A Debian package is missing and could not be installed."""

    code = "packages_unavailable"


class BaseImageUnavailable(ContainerError):
    """The base image could neither be pulled nor made."""

    code = "base_image_unavailable"


class BuildInputsInvalid(ContainerError):
    """What the image is made from is missing or unreadable."""

    code = "build_inputs_invalid"


class ImageBuildFailed(ContainerError):
    """A step of the Dockerfile failed."""

    code = "image_build_failed"


class ImageNamesInvalid(ContainerError):
    """images.toml is not what we write there."""

    code = "image_names_invalid"


class ImageNameRefused(ContainerError):
    """An image cannot be added, or removed, under this name."""

    code = "image_name_refused"


class ImageSourceInvalid(ContainerError):
    """There is neither a Dockerfile nor a tar archive to make an image of."""

    code = "image_source_invalid"


class ImageUnfit(ContainerError):
    """Sandboxes cannot start from the image."""

    code = "image_unfit"


def report(error: ContainerError) -> int:
    """Tell the error to a person, on stderr; the exit code of a program that gives up over it."""
    print(f"error ({error.code}): {error}\n{error.hint}", file=sys.stderr)
    return 1
