"""Has the images that sandboxes start from: `python -m container.image [add|list|remove …]`."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from docker import DockerClient

from container import own_images
from container.build_context import sandbox_context
from container.ca_bundle import SETTING, find_ca_bundle, read_ca_bundle
from container.engine import ANSWER_TIMEOUT_S, connect
from container.errors import ContainerError, report
from container.image_build import SILENCE_TIMEOUT_S, engine_errors, find_or_build
from container.image_names import DEFAULT_IMAGE, record_image
from container.runtime_tree import ensure_runtime_tree

_IMAGE_DIR = Path(__file__).parent / "sandbox"


def ensure_sandbox_image(
    *, state_dir: Path, ca_bundle: Path | None, progress: Callable[[str], None]
) -> str:
    """The id (`sha256:…`) of the image for these files and this CA bundle, built if there is none.

    It is also written to images.toml in `state_dir`, beside the runtime that is mounted into it.
    `ca_bundle` None: Debian's own certificates are used. `progress` is given a line at a time, and
    none where nothing has changed.
    """
    ca_pem = read_ca_bundle(ca_bundle)
    with _engine(timeout_s=SILENCE_TIMEOUT_S) as client:
        context = sandbox_context(image_dir=_IMAGE_DIR, ca_pem=ca_pem)
        image_id = find_or_build(client, context, progress)
        # For a Dockerfile of the operator's own to start from.
        client.images.get(image_id).tag(context.repository, tag="latest")
        ensure_runtime_tree(client, state_dir=state_dir, ca_pem=ca_pem, progress=progress)
    record_image(state_dir, DEFAULT_IMAGE, image_id)
    return image_id


def add_image(
    name: str,
    source: Path,
    *,
    state_dir: Path,
    ca_bundle: Path | None,
    progress: Callable[[str], None],
) -> str:
    """The id of an image of the operator's own, which sandboxes may start from by its name."""
    with _engine(timeout_s=SILENCE_TIMEOUT_S) as client:
        tree = ensure_runtime_tree(
            client, state_dir=state_dir, ca_pem=read_ca_bundle(ca_bundle), progress=progress
        )
        return own_images.add(
            client, name, source, state_dir=state_dir, tree=tree, progress=progress
        )


def remove_image(name: str, *, state_dir: Path) -> None:
    """Takes an image of the operator's own away."""
    with _engine() as client:
        own_images.remove(client, name, state_dir=state_dir)


def list_images(*, state_dir: Path) -> list[own_images.OwnImage]:
    """All images that sandboxes of this node may start from."""
    with _engine() as client:
        return own_images.list_all(client, state_dir=state_dir)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m container.image", description=__doc__)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".coldframe"), help="where images.toml is written"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("build", help="the image of ours, and the runtime (the default)")
    adding = commands.add_parser("add", help="an image of your own")
    adding.add_argument("name", help="by which sandboxes ask for it")
    adding.add_argument("source", type=Path, help="a Dockerfile, its directory, or a tar archive")
    commands.add_parser("list", help="all images that sandboxes may start from")
    removing = commands.add_parser("remove", help="an image of your own")
    removing.add_argument("name")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except ContainerError as error:
        return report(error)
    return 0


def _run(options: argparse.Namespace) -> None:
    state_dir: Path = options.state_dir
    ca_bundle = find_ca_bundle(os.environ.get(SETTING))
    match options.command:
        case "add":
            image_id = add_image(
                options.name,
                options.source,
                state_dir=state_dir,
                ca_bundle=ca_bundle,
                progress=_print_line,
            )
            print(f"{options.name} is {image_id}")
        case "list":
            for image in list_images(state_dir=state_dir):
                size = "LOST" if image.size_bytes is None else f"{image.size_bytes / 1e6:.0f} MB"
                print(f"{image.name:30} {image.image_id} {size:>10}")
        case "remove":
            remove_image(options.name, state_dir=state_dir)
        case _:
            ensure_sandbox_image(state_dir=state_dir, ca_bundle=ca_bundle, progress=_print_line)


@contextmanager
def _engine(*, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[DockerClient]:
    """A client whose errors are ours, closed after the block."""
    client = connect(timeout_s=timeout_s)
    try:
        with engine_errors():
            yield client
    finally:
        client.close()


def _print_line(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
