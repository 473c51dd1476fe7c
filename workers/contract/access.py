"""Says what each program may do in a Redis that several users share, as its access control list.

Each has keys of its own and the commands for what they hold. Nobody may do what is about the whole
server (`@dangerous`, but for what is said below), nor bring a script along: those that we use are
loaded before anybody connects, and run by their hash. What a script does is bound by its caller's
list as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

QUEUES = ("placement", "placement.egress", "node.*")

NONE = ""
"""What scripts are given for a key that there is not: the key without a name."""

SANDBOX_KEYS = ("cf:sandbox:*",)

JOB_KEYS = (
    *("cf:job:*", "cf:jobs:*", "cf:open-jobs:*", "cf:line:*", "cf:sent-jobs", "cf:nudges"),
    "cf:counts",
    *("cf:queue-places", "cf:places:*", "cf:places-taken", "cf:waiting:*", "cf:waiting-in:*"),
    *("cf:sandbox-names:*", "cf:pool:*", "cf:pools", *SANDBOX_KEYS, *QUEUES, NONE),
)
"""Of jobs and sandboxes, which the web accepts and workers carry out."""

NODE_ORDERS = ("cf:drained-nodes", "cf:removed-nodes")

EVENT_CHANNELS = ("cf:events:*", "cf:sandbox:*:events")

CELERYS_CHANNELS = ("/0.celery.pidbox", "/0.celeryev/*", "/0.celeryev/worker.*")
"""Questions to workers, and events of tasks. A pattern is subscribed to as it stands here, only."""

BINDINGS = "_kombu.binding*"
"""In which kombu writes down who reads what, partly by scripts of its own."""

CELERYS_OWN = (BINDINGS, "celeryev.*", "*.celery.pidbox")
"""And the queues of those who listen to events of tasks, or ask a worker how it is."""

_BASICS = "@connection @transaction exists del expire pexpire ttl type time"
_SCRIPTS = "evalsha script|exists"
"""To run those that are loaded; redis-py asks whether they are before it sends a group of them."""

_TYPES = "@string @hash @list @set @sortedset @stream"


@dataclass(frozen=True)
class RedisUser:
    """What one program may do."""

    name: str
    keys: tuple[str, ...] = ()
    read_keys: tuple[str, ...] = ()
    """Which it may not change."""
    channels: tuple[str, ...] = ()
    commands: str = ""
    """Names and @categories; without those that are dangerous."""
    though_dangerous: str = ""

    def rule(self, password: str) -> str:
        """A line of Redis' file of users. The password is in it as its hash alone."""
        words = [
            *(
                "user",
                self.name,
                "reset",
                "on",
                f"#{hashlib.sha256(password.encode()).hexdigest()}",
            ),
            *(f"~{key}" for key in self.keys),
            *(f"%R~{key}" for key in self.read_keys),
            *(f"&{channel}" for channel in self.channels),
            *(f"+{command}" for command in self.commands.split()),
            "-@dangerous",
            *(f"+{command}" for command in self.though_dangerous.split()),
        ]
        return " ".join(words)


WEB = RedisUser(
    "web",
    keys=(
        *(*JOB_KEYS, "cf:idempotency:*", "cf:rate:*", *NODE_ORDERS),
        *("cf:node:*:control", "cf:node:*:sandboxes"),
    ),
    read_keys=("cf:nodes", "cf:node:*"),
    channels=EVENT_CHANNELS,
    commands=f"{_BASICS} {_TYPES} @pubsub {_SCRIPTS}",
    though_dangerous="info",  # How full Redis is: what is new is refused before it is full.
)

WORKER = RedisUser(
    "worker",
    keys=(
        *(*JOB_KEYS, "cf:nodes", "cf:node:*", *NODE_ORDERS, "cf:leader", "cf:dead-letters"),
        *CELERYS_OWN,
    ),
    channels=(*EVENT_CHANNELS, *CELERYS_CHANNELS),
    # It looks through the names of keys for what has expired.
    commands=f"{_BASICS} {_TYPES} @pubsub {_SCRIPTS} scan",
)

RELAY = RedisUser(
    "relay",
    keys=SANDBOX_KEYS,
    commands=f"@connection @hash exists time {_SCRIPTS}",
)

BEAT = RedisUser(
    "beat",
    keys=("placement", BINDINGS),
    commands="@connection @transaction exists lpush llen sadd smembers",
)

FLOWER = RedisUser(
    "flower",
    keys=CELERYS_OWN,
    read_keys=QUEUES,
    channels=CELERYS_CHANNELS,
    commands="@connection @transaction @pubsub @set @sortedset exists del pexpire llen brpop time "
    f"{_SCRIPTS}",
)

LOADER = RedisUser("loader", commands="@connection script|load script|exists")
"""Who loads the scripts: Redis' own start, and nobody else."""

PROGRAMS = (WEB, WORKER, RELAY, BEAT, FLOWER)


def users_file(passwords: Mapping[RedisUser, str]) -> str:
    """The file of users, in which whoever gives no name is nobody."""
    rules = [user.rule(password) for user, password in passwords.items()]
    return "\n".join(["user default reset off", *rules, ""])
