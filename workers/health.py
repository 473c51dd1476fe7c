"""Says by its exit code whether this node's worker says that it is ready: `-m workers.health`."""

from __future__ import annotations

import sys

from workers.contract.connection import connect
from workers.contract.errors import Fault
from workers.contract.settings import InvalidSettings
from workers.contract.store import NodeStore
from workers.settings import Settings


def main() -> int:
    try:
        settings = Settings.from_env()
        client = connect(settings.store, max_connections=1)
        nodes = [node for node in NodeStore(client).all() if node.id == settings.node_id]
    except (InvalidSettings, Fault) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    problems = [node.problem for node in nodes if not node.ready] if nodes else ["no heartbeat"]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
