"""The worker's settings, read from the environment once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlsplit

from workers.contract.networks import Network, Target, parse_target
from workers.contract.settings import Environment, StoreSettings, relay_address, store_settings

DRIVERS = ("docker", "local")

LOCAL_NETWORKS = ("none", "host")


@dataclass(frozen=True)
class SandboxDefaults:
    """What a sandbox gets where its request does not say."""

    cpus: float
    memory_mb: int
    pids: int
    disk_mb: int
    disk_reserve_mb: int
    """What is to stay free of the node's disk: with less, no sandbox is made."""
    idle_timeout_s: float
    kernel_idle_s: int
    """So long after its last cell a code context's kernel is ended."""
    build_network: Network
    """Of builds; where the node has no egress, none."""


@dataclass(frozen=True)
class EgressSettings:
    """What sandboxes with a network reach besides the internet."""

    resolver: IPv4Address | None = None
    """Whom they ask for names; None: whom the host asks."""
    proxy: str = ""
    """The URL of the proxy that they are told of; empty: none."""
    allowed: tuple[Target, ...] = ()
    redis_url: str = field(default="", repr=False)
    """Which they never reach, wherever it is; empty: it is on no address."""


@dataclass(frozen=True)
class Settings:
    """All that a worker is told from outside."""

    store: StoreSettings
    node_id: str
    state_dir: Path
    driver: str
    job_limit: int
    """Jobs that this node runs at once: a thread each, all of which mostly wait."""
    pool_min: int
    """Sandboxes that are kept ready before they are asked for, also where none ever was."""
    pool_max: int
    pool_languages: list[str]
    """Of which each of those has a kernel ready."""
    sandbox_limit: int
    """Of those that are here at a time, the pool's too."""
    node_lost_s: float
    """Without a heartbeat for so long, a node's jobs end, or run elsewhere."""
    memory_reserve_mb: int
    """With less of the machine's memory free, no sandbox is made."""
    defaults: SandboxDefaults
    egress: EgressSettings
    ca_bundle: Path | None
    """Certificates that sandboxes trust; None leaves the image's own."""
    local_python: Path | None
    """Driver local: the Python that user code gets."""
    relay: str
    """`host:port` where the web finds this node's relay; empty: on a socket of its machine."""
    preview_url: str
    """How this node's previews are called; empty: as the web's settings say."""
    local_network: str = "none"
    """Driver local: what `egress` is there. `host` is the machine's own network, unfiltered."""
    lease_s: float = 30.0
    renew_s: float = 5.0
    heartbeat_s: float = 2.0
    settle_s: float = 2.0
    """How long Redis may take until what it was told is on its disk (fsync every second)."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises `InvalidSettings` with all that is wrong."""
        environment = Environment(environ)
        bundle = environment.text("COLDFRAME_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
        local_python = environment.text("COLDFRAME_LOCAL_PYTHON", "")
        store = store_settings(environment)
        settings = cls(
            store=store,
            node_id=environment.text("COLDFRAME_NODE", "node-1"),
            state_dir=Path(environment.text("COLDFRAME_STATE_DIR", ".coldframe")).absolute(),
            driver=environment.choice("COLDFRAME_DRIVER", "docker", DRIVERS),
            job_limit=environment.integer("COLDFRAME_JOB_LIMIT", 320, at_least=1),
            pool_min=environment.integer("COLDFRAME_POOL_MIN", 1),
            pool_max=environment.integer("COLDFRAME_POOL_MAX", 8),
            pool_languages=environment.text("COLDFRAME_POOL_LANGUAGES", "python").split(),
            sandbox_limit=environment.integer("COLDFRAME_NODE_SANDBOXES", 256, at_least=1),
            node_lost_s=environment.number("COLDFRAME_NODE_LOST_S", 25.0, at_least=10.0),
            memory_reserve_mb=environment.integer("COLDFRAME_MEMORY_RESERVE_MB", 512),
            defaults=SandboxDefaults(
                cpus=environment.number("COLDFRAME_SANDBOX_CPUS", 1.0, at_least=0.01),
                memory_mb=environment.integer("COLDFRAME_SANDBOX_MEMORY_MB", 1024, at_least=64),
                pids=environment.integer("COLDFRAME_SANDBOX_PIDS", 512, at_least=32),
                disk_mb=environment.integer("COLDFRAME_SANDBOX_DISK_MB", 2048, at_least=64),
                disk_reserve_mb=environment.integer("COLDFRAME_DISK_RESERVE_MB", 1024, at_least=0),
                idle_timeout_s=environment.number("COLDFRAME_SANDBOX_IDLE_TIMEOUT_S", 600.0),
                kernel_idle_s=environment.integer(
                    "COLDFRAME_KERNEL_IDLE_TIMEOUT_S", 3600, at_least=1
                ),
                build_network=Network(
                    environment.choice("COLDFRAME_BUILD_NETWORK", "egress", tuple(Network))
                ),
            ),
            egress=EgressSettings(
                resolver=_resolver(environment),
                proxy=_proxy(environment),
                allowed=_targets(environment),
                redis_url=store.redis_url,
            ),
            ca_bundle=Path(bundle) if Path(bundle).is_file() else None,
            local_python=Path(local_python) if local_python else None,
            relay=relay_address(environment),
            preview_url=environment.text("COLDFRAME_PREVIEW_URL", ""),
            local_network=environment.choice("COLDFRAME_LOCAL_NETWORK", "none", LOCAL_NETWORKS),
        )
        environment.check()
        return settings


def _resolver(environment: Environment) -> IPv4Address | None:
    name = "COLDFRAME_RESOLVER"
    text = environment.text(name, "")
    if not text:
        return None
    try:
        return IPv4Address(text)
    except ValueError:
        environment.refuse(name, "must be an IPv4 address, asked at port 53")
        return None


def _proxy(environment: Environment) -> str:
    name = "COLDFRAME_EGRESS_PROXY"
    url = environment.text(name, "")
    if url:
        try:
            parts = urlsplit(url)
            is_whole = parts.scheme == "http" and parts.hostname and parts.port
        except ValueError:
            is_whole = False
        if not is_whole:
            environment.refuse(name, "must be a URL like http://proxy.example:3128")
    return url


def _targets(environment: Environment) -> tuple[Target, ...]:
    name = "COLDFRAME_ALLOWED_RANGES"
    found = []
    for text in environment.text(name, "").replace(",", " ").split():
        try:
            found.append(parse_target(text))
        except ValueError as error:
            environment.refuse(name, f"has what is no range: {error}")
    return tuple(found)
