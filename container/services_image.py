"""Has the image of docker-compose.yml's services: `python -m container.services_image`.

`docker-compose build` makes the same of the same files. This is for machines where that fails:
where no registry can be reached the base image is made, and `COLDFRAME_CA_BUNDLE` is trusted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from container.build_context import services_context
from container.ca_bundle import SETTING, find_ca_bundle, read_ca_bundle
from container.engine import connect
from container.errors import ContainerError, report
from container.image_build import SILENCE_TIMEOUT_S, engine_errors, find_or_build

REPOSITORY = Path(__file__).parents[1]


def ensure_services_image(*, ca_bundle: Path | None, progress: Callable[[str], None]) -> str:
    """The image's tag; it is `latest`, too, as docker-compose.yml calls it."""
    context = services_context(repository=REPOSITORY, ca_pem=read_ca_bundle(ca_bundle))
    client = connect(timeout_s=SILENCE_TIMEOUT_S)
    try:
        with engine_errors():
            image_id = find_or_build(client, context, progress)
            client.images.get(image_id).tag(context.repository, tag="latest")
    finally:
        client.close()
    return context.tag


def main() -> int:
    try:
        ensure_services_image(ca_bundle=find_ca_bundle(os.environ.get(SETTING)), progress=print)
    except ContainerError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
