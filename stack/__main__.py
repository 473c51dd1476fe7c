"""`python -m stack up|node|down|status|logs|tour|prepare|certificates|clean`: what `make` calls."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from container.errors import ContainerError
from stack import status, tour
from stack.certificates import WEB, make_certificates
from stack.errors import StackError
from stack.programs import ProgramName
from stack.progress import Progress
from stack.settings import StackSettings
from stack.stack import Stack
from workers.contract.settings import InvalidSettings

COMMANDS = ("up", "node", "down", "status", "logs", "tour", "prepare", "certificates", "clean")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "name", nargs="?", default="", help="logs: of which program; certificates: for which node"
    )
    options = parser.parse_args(arguments)
    progress = Progress(sys.stdout)
    try:
        stack = Stack(StackSettings.from_env(), progress=progress)
        with progress.step(options.command):
            return _run(stack, options.command, options.name)
    except InvalidSettings as error:
        return _report("settings_invalid", str(error), "Correct the environment variables.")
    except (StackError, ContainerError) as error:
        return _report(error.code, str(error), error.hint)
    except KeyboardInterrupt:
        return 130


def _run(stack: Stack, command: str, name: str) -> int:
    match command:
        case "up":
            stack.up()
            if stack.settings.tour:
                tour.show(stack.client_env)
            print(_directions(stack))
        case "node":
            stack.join()
            print(f"The node {stack.settings.node} starts; make logs P=worker shows how.")
        case "certificates":
            print(make_certificates(stack.settings.state_dir / "tls", name or WEB))
        case "down":
            stack.down()
        case "status":
            found = status.look(stack)
            print(found.render())
            return 0 if found.is_healthy else 1
        case "logs":
            _follow_logs(stack, name)
        case "tour":
            tour.show(stack.client_env)
        case "prepare":
            stack.prepare()
        case "clean":
            stack.clean()
    return 0


def _directions(stack: Stack) -> str:
    """Where everything listens and what to type next."""
    settings, url = stack.settings, stack.settings.url
    env_file = settings.state_dir / "client.env"
    return f"""
Coldframe is up (node {settings.node}, driver {stack.driver}).

  API       {url}/v1/            (its description: {url}/v1/openapi.json)
  Flower    {url}/flower/        (any user name; the password is the API key)
  Metrics   {url}/metrics
  Logs      {settings.log_dir}/
  Clients   {env_file}    (COLDFRAME_URL and COLDFRAME_API_KEY)

Next:
  . {env_file}
  curl -X PUT -H "Authorization: Bearer $COLDFRAME_API_KEY" $COLDFRAME_URL/v1/sandboxes/mine
  curl -N -H "Authorization: Bearer $COLDFRAME_API_KEY" -H "Accept: text/event-stream" \\
    -H "Content-Type: application/json" \\
    -d '{{"command": "for i in 1 2 3; do echo $i; sleep 1; done"}}' \\
    $COLDFRAME_URL/v1/sandboxes/mine/exec
  make status | make logs P=web | make down
"""


def _follow_logs(stack: Stack, program: str) -> None:
    names = [name for name in ProgramName if program in ("", name)]
    paths = [str(stack.processes.log_path(name)) for name in names]
    os.execvp("tail", ["tail", "-n", "50", "-F", *paths])


def _report(code: str, message: str, hint: str) -> int:
    print(f"error ({code}): {message}\n{hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
