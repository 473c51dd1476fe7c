"""`python -m web migrate | create-key`: what is done to the database by hand, or at a start."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from web.auth import OPERATOR
from web.database import Database, migrate
from web.errors import DatabaseUnavailable
from web.keys import OWNER_PATTERN, KeyStore, Scope
from web.settings import database_url
from workers.contract.clock import timestamp
from workers.contract.owners import NO_LIMITS
from workers.contract.settings import Environment


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m web", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the database's tables to the newest form")
    create = commands.add_parser("create-key", help="make an API key, and print it")
    create.add_argument("--owner", required=True, type=_owner, help="whose sandboxes it opens")
    create.add_argument("--name", default="", help="for people")
    create.add_argument(
        "--scopes", default="read,run", type=_scopes, help="of read, run, admin (read,run)"
    )
    options = parser.parse_args(arguments)
    url = database_url(Environment(os.environ))
    try:
        migrate(url)
        if options.command == "create-key":
            keys = KeyStore(Database(url), now=timestamp)
            _, text = keys.create(
                owner=options.owner,
                name=options.name,
                scopes=options.scopes,
                limits=NO_LIMITS,
                created_by=OPERATOR,
            )
            print(text)
    except DatabaseUnavailable as error:
        print(f"error ({error.code}): {error.message}\n{error.hint}", file=sys.stderr)
        return 1
    return 0


def _owner(text: str) -> str:
    if re.fullmatch(OWNER_PATTERN, text) is None:
        raise argparse.ArgumentTypeError("must be lower-case letters, digits and hyphens")
    return text


def _scopes(text: str) -> frozenset[Scope]:
    try:
        return frozenset(Scope(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; there are {', '.join(Scope)}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
