"""Builds the sandbox image where what it is made from has changed: `python -m container.image`."""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from docker import DockerClient
from docker.errors import DockerException, ImageNotFound
from urllib3.exceptions import HTTPError

from container.base_image import ensure_base_image
from container.build_context import REPOSITORY, RUNTIME, BuildContext, collect_context
from container.build_stream import BuildReport, Failed, parse_message
from container.ca_bundle import SETTING, find_ca_bundle, read_ca_bundle
from container.engine import connect
from container.errors import ContainerError, EngineFailed, ImageBuildFailed, report
from container.image_names import DEFAULT_IMAGE, record_image

SILENCE_TIMEOUT_S = 600.0  # a build step may print nothing for as long as this
UNUSED_IMAGE_LIFE = timedelta(
    days=7
)  # another checkout on this machine may be about to use its own; they share nearly all layers

_IMAGE_DIR = Path(__file__).parent / "sandbox"
_RUNTIME_DIR = Path(__file__).parent.parent / RUNTIME

# requests' errors are OSErrors; a stream that breaks off is urllib3's own.
_ENGINE_ERRORS = (DockerException, OSError, HTTPError)


def ensure_sandbox_image(
    *, state_dir: Path, ca_bundle: Path | None, progress: Callable[[str], None]
) -> str:
    """The id (`sha256:…`) of the image for these files and this CA bundle, built if there is none.

    It is also written to images.toml in `state_dir`. `ca_bundle` None: Debian's own certificates
    are used. `progress` is given a line at a time, and none where nothing has changed.
    """
    context = collect_context(
        image_dir=_IMAGE_DIR, runtime_dir=_RUNTIME_DIR, ca_pem=read_ca_bundle(ca_bundle)
    )
    client = connect(timeout_s=SILENCE_TIMEOUT_S)
    try:
        image_id = _find_or_build(client, context, progress)
    except _ENGINE_ERRORS as error:
        message = f"The Docker engine could not do its part: {error}"
        raise EngineFailed(
            message, hint="See that it runs and has room (docker system df), then try again."
        ) from error
    finally:
        client.close()
    record_image(state_dir, DEFAULT_IMAGE, image_id)
    return image_id


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m container.image", description=__doc__)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".coldframe"), help="where images.toml is written"
    )
    options = parser.parse_args(arguments)
    try:
        ensure_sandbox_image(
            state_dir=options.state_dir,
            ca_bundle=find_ca_bundle(os.environ.get(SETTING)),
            progress=lambda line: print(line, flush=True),
        )
    except ContainerError as error:
        return report(error)
    return 0


def _find_or_build(
    client: DockerClient, context: BuildContext, progress: Callable[[str], None]
) -> str:
    try:
        return _image_id(client, context.tag)
    except ImageNotFound:
        ensure_base_image(client, context.base_image, progress=progress)
        _build(client, context, progress)
        _remove_older_images(client, keep=context.tag)
        return _image_id(client, context.tag)


def _image_id(client: DockerClient, tag: str) -> str:
    return str(client.images.get(tag).id)


def _build(client: DockerClient, context: BuildContext, progress: Callable[[str], None]) -> None:
    progress(f"building {context.tag}")
    started_s = time.monotonic()
    steps = BuildReport()
    messages = client.api.build(
        fileobj=io.BytesIO(context.as_tar()),
        custom_context=True,
        tag=context.tag,
        rm=True,
        forcerm=True,
        decode=True,
    )
    for message in messages:
        event = parse_message(message)
        if event is None:
            continue
        for line in steps.tell(event, now_s=time.monotonic()):
            progress(line)
        if isinstance(event, Failed):
            hint = f"The step's output ends with:\n{steps.last_output}"
            raise ImageBuildFailed(f"{context.tag} could not be built: {event.reason}", hint=hint)
    ended_s = time.monotonic()
    for line in steps.end(now_s=ended_s):
        progress(line)
    progress(f"built {context.tag} in {ended_s - started_s:.1f} s")


def _remove_older_images(client: DockerClient, *, keep: str) -> None:
    """Best effort: the engine keeps what a container uses, and the next build tries again."""
    oldest = (datetime.now(UTC) - UNUSED_IMAGE_LIFE).isoformat()
    older = [
        tag
        for image in client.images.list(name=REPOSITORY)
        for tag in image.tags
        if str(image.attrs["Created"]) < oldest and tag.startswith(f"{REPOSITORY}:") and tag != keep
    ]
    for tag in older:
        try:
            client.images.remove(tag)
        except DockerException:
            continue


if __name__ == "__main__":
    sys.exit(main())
