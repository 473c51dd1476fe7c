"""`python -m workers remove-sandboxes`: removes every sandbox of this node, for good."""

from __future__ import annotations

import sys

from workers.contract.errors import Fault
from workers.contract.settings import InvalidSettings
from workers.drivers.driver import DriverFault
from workers.node import Node
from workers.settings import Settings


def main(arguments: list[str]) -> int:
    if arguments != ["remove-sandboxes"]:
        sys.stderr.write("usage: python -m workers remove-sandboxes\n")
        return 2
    try:
        settings = Settings.from_env()
        count = Node(settings).remove_all_sandboxes()
    except (InvalidSettings, DriverFault, Fault) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{count} sandboxes removed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
