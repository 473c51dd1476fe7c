"""Has the sandbox image and the runtime up to date: `python -m container.image`."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from container.build_context import sandbox_context
from container.ca_bundle import SETTING, find_ca_bundle, read_ca_bundle
from container.engine import connect
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
    client = connect(timeout_s=SILENCE_TIMEOUT_S)
    try:
        with engine_errors():
            context = sandbox_context(image_dir=_IMAGE_DIR, ca_pem=ca_pem)
            image_id = find_or_build(client, context, progress)
            ensure_runtime_tree(client, state_dir=state_dir, ca_pem=ca_pem, progress=progress)
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


if __name__ == "__main__":
    sys.exit(main())
