"""Holds a node's rules in the kernel, whatever others do to them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from workers.drivers.driver import EgressUnavailable
from workers.drivers.rules import Plan, Table, chain_prefix, tables, tables_of_ipv6

COMMAND_TIMEOUT_S = 10.0
LOCK_WAIT_S = 5
"""Others change rules, too."""

JUMP_PATIENCE_S = 2.0
JUMP_LOOK_S = 0.05

FORWARD_JUMP = "-A FORWARD -j DOCKER-USER"
IPV6 = Path("/proc/net/if_inet6")

log = structlog.get_logger(__name__)

Lines = Mapping[str, list[str]]
"""By table: what iptables-save prints of it."""


class Firewall:
    """Of one node. Its owner calls it from one thread at a time."""

    def __init__(self, owner: str) -> None:
        self._prefix = chain_prefix(owner)
        self._plan: Plan | None = None
        self._seen: dict[str, Lines] = {}
        """By program: what was there of ours, once the plan's rules had been written."""

    def hold(self, plan: Plan) -> None:
        """Has these rules in force, and no others of ours. Raises `EgressUnavailable`."""
        changed = self._changed() if plan == self._plan else None
        if changed == []:
            return
        if changed:
            log.warning("firewall was changed behind our back", programs=changed)
        self._plan = None
        for program, wanted in _by_program(plan).items():
            self._write(program, wanted)
            self._seen[program] = self._ours(_saved(program))
        self._plan = plan

    def hold_on(self) -> None:
        """As it was held last; nothing where it never was. Raises `EgressUnavailable`."""
        if self._plan is not None:
            self.hold(self._plan)

    def remove(self) -> None:
        """Takes all rules of this node away, also those of an earlier start of it."""
        self._plan = None
        for program in _programs():
            try:
                saved = _saved(program)
                text = _restore_text(saved, self._ours(saved), {})
                if text:
                    _run(f"{program}-restore", "--noflush", f"--wait={LOCK_WAIT_S}", given=text)
            except EgressUnavailable as fault:
                log.warning("firewall not removed", program=program, reason=str(fault))

    def _changed(self) -> list[str]:
        """The programs whose rules are not as they were written."""
        changed = []
        for program, seen in self._seen.items():
            if self._ours(_saved_with_jump(program)) != seen:
                changed.append(program)
        return changed

    def _write(self, program: str, wanted: Mapping[str, Table]) -> None:
        saved = _saved_with_jump(program)
        text = _restore_text(saved, self._ours(saved), wanted)
        _run(f"{program}-restore", "--noflush", f"--wait={LOCK_WAIT_S}", given=text)

    def _ours(self, saved: Lines) -> dict[str, list[str]]:
        return {
            table: ours
            for table, lines in saved.items()
            if (ours := [line for line in lines if self._prefix in line])
        }


def _by_program(plan: Plan) -> dict[str, dict[str, Table]]:
    wanted = {"iptables": tables(plan), "ip6tables": tables_of_ipv6(plan)}
    return {program: wanted[program] for program in _programs()}


def _programs() -> list[str]:
    return ["iptables", "ip6tables"] if IPV6.exists() else ["iptables"]


def _saved_with_jump(program: str) -> dict[str, list[str]]:
    """As `_saved`, once the engine leads to its chain for others: so it does for IPv4.

    Whenever it makes a network it takes that rule away, and puts it in again. Raises
    `EgressUnavailable`.
    """
    deadline = time.monotonic() + JUMP_PATIENCE_S
    while True:
        saved = _saved(program)
        if program != "iptables" or FORWARD_JUMP in saved.get("filter", []):
            return saved
        if time.monotonic() > deadline:
            raise EgressUnavailable(
                "the engine keeps no chain DOCKER-USER where this node's iptables looks"
            )
        time.sleep(JUMP_LOOK_S)


def _saved(program: str) -> dict[str, list[str]]:
    saved: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in _run(f"{program}-save").splitlines():
        if line.startswith("*"):
            lines = saved.setdefault(line[1:], [])
        elif line[:1] in ":-":
            lines.append(line.partition(" [")[0] if line[0] == ":" else line)
    return saved


def _restore_text(saved: Lines, ours: Lines, wanted: Mapping[str, Table]) -> str:
    """One transaction for each table: what is ours in it goes, what is wanted comes."""
    parts = []
    for name in dict.fromkeys([*ours, *wanted]):
        table = wanted.get(name, Table({}, []))
        there = [line[1:].split()[0] for line in ours.get(name, []) if line[0] == ":"]
        own = {*there, *table.chains}
        parts.append(f"*{name}")
        parts += [f":{chain} - [0:0]" for chain in dict.fromkeys([*there, *table.chains])]
        parts += [
            f"-D {line.removeprefix('-A ')}"
            for line in ours.get(name, [])
            if line[0] == "-" and line.split()[1] not in own
        ]
        parts += [f"-F {chain}" for chain in there]
        parts += [f"-A {chain} {rule}" for chain, rules in table.chains.items() for rule in rules]
        parts += [f"-I {chain} {rule}" for chain, rule in reversed(table.jumps)]
        parts += [f"-X {chain}" for chain in there if chain not in table.chains]
        parts.append("COMMIT")
    return "".join(f"{part}\n" for part in parts)


def _run(*command: str, given: str = "") -> str:
    """What it prints. Raises `EgressUnavailable` with what it says."""
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise EgressUnavailable(f"{command[0]} is not installed on the node") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EgressUnavailable(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
        raise EgressUnavailable(f"{command[0]}: {said}")
    return done.stdout
