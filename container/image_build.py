"""Builds an image where there is none yet of what it is made from."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from docker import DockerClient
from docker.errors import DockerException, ImageNotFound
from urllib3.exceptions import HTTPError

from container.base_image import ensure_base_image
from container.build_context import BuildContext
from container.build_stream import BuildReport, Failed, parse_message
from container.errors import EngineFailed, ImageBuildFailed

SILENCE_TIMEOUT_S = 600.0  # a build step may print nothing for as long as this
UNUSED_IMAGE_LIFE = timedelta(
    days=7
)  # another checkout on this machine may be about to use its own; they share nearly all layers

# requests' errors are OSErrors; a stream that breaks off is urllib3's own.
_ENGINE_ERRORS = (DockerException, OSError, HTTPError)


@contextmanager
def engine_errors() -> Iterator[None]:
    """Translates what the engine's client raises into `EngineFailed`."""
    try:
        yield
    except _ENGINE_ERRORS as error:
        message = f"The Docker engine could not do its part: {error}"
        raise EngineFailed(
            message, hint="See that it runs and has room (docker system df), then try again."
        ) from error


def find_or_build(
    client: DockerClient, context: BuildContext, progress: Callable[[str], None]
) -> str:
    """The id (`sha256:…`) of the image for this context."""
    try:
        return _image_id(client, context.tag)
    except ImageNotFound:
        ensure_base_image(client, context.base_image, progress=progress)
        build(
            client,
            context.tag,
            progress=progress,
            fileobj=io.BytesIO(context.as_tar()),
            custom_context=True,
        )
        _remove_older_images(client, context.repository, keep=context.tag)
        return _image_id(client, context.tag)


def build(
    client: DockerClient, tag: str, *, progress: Callable[[str], None], **source: Any
) -> None:
    """Builds an image of `source`, as the engine's client takes it. Raises `ImageBuildFailed`."""
    progress(f"building {tag}")
    started_s = time.monotonic()
    steps = BuildReport()
    messages = client.api.build(tag=tag, rm=True, forcerm=True, decode=True, **source)
    for message in messages:
        event = parse_message(message)
        if event is None:
            continue
        for line in steps.tell(event, now_s=time.monotonic()):
            progress(line)
        if isinstance(event, Failed):
            hint = f"The step's output ends with:\n{steps.last_output}"
            raise ImageBuildFailed(f"{tag} could not be built: {event.reason}", hint=hint)
    ended_s = time.monotonic()
    for line in steps.end(now_s=ended_s):
        progress(line)
    progress(f"built {tag} in {ended_s - started_s:.1f} s")


def _image_id(client: DockerClient, tag: str) -> str:
    return str(client.images.get(tag).id)


def _remove_older_images(client: DockerClient, repository: str, *, keep: str) -> None:
    """Best effort: the engine keeps what a container uses, and the next build tries again."""
    oldest = (datetime.now(UTC) - UNUSED_IMAGE_LIFE).isoformat()
    older = [
        tag
        for image in client.images.list(name=repository)
        for tag in image.tags
        if str(image.attrs["Created"]) < oldest and tag.startswith(f"{repository}:") and tag != keep
    ]
    for tag in older:
        try:
            client.images.remove(tag)
        except DockerException:
            continue
