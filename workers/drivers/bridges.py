"""Keeps the bridges of sandboxes shut wherever their rules are not in force."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from workers.drivers import advice, links
from workers.drivers.driver import EgressUnavailable
from workers.drivers.firewall import Firewall
from workers.drivers.rules import Plan


class Bridges:
    """Its owner calls it from one thread at a time."""

    def __init__(self, owner: str, names: Iterable[str]) -> None:
        self._firewall = Firewall(owner)
        self._names = tuple(names)

    def check_machine(self) -> None:
        """What rules need besides. Raises `EgressUnavailable`."""
        if os.geteuid() != 0:
            raise EgressUnavailable("rules of the firewall need a worker that is root")
        for program in ("iptables-save", "iptables-restore"):
            if shutil.which(program) is None:
                raise EgressUnavailable(f"{program} is not installed on the node")

    def hold(self, plan: Plan) -> None:
        """Opens the bridges once these rules are in force. Raises `EgressUnavailable`."""
        try:
            for name in self._names:
                if not links.is_there(name):
                    raise EgressUnavailable(
                        "the engine's bridges are in another network namespace than the worker"
                    )
            self._firewall.hold(plan)
            self._open()
        except EgressUnavailable:
            self.shut()
            raise

    def hold_on(self) -> None:
        """As it was held last; nothing where it never was. Raises `EgressUnavailable`."""
        try:
            self._firewall.hold_on()
        except EgressUnavailable:
            self.shut()
            raise

    def shut(self) -> None:
        for name in self._names:
            try:
                links.switch(name, on=False)
            except OSError:
                pass  # There is none, so nothing passes it.

    def remove(self) -> None:
        """Once the bridges are gone."""
        self._firewall.remove()

    def _open(self) -> None:
        if not advice.bridges_are_filtered():
            raise EgressUnavailable(
                "net.bridge.bridge-nf-call-iptables is not 1: sandboxes would reach each other"
            )
        try:
            for name in self._names:
                links.switch(name, on=True)
        except OSError as error:
            raise EgressUnavailable(f"the engine's bridges: {error}") from error
