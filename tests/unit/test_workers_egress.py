"""What sandboxes with a network may reach, as settings say it and rules are made of it."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from workers import egress_test
from workers.contract.networks import (
    AllowedNetwork,
    Network,
    NetworkPolicy,
    Target,
    canonical,
    parse_target,
)
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.contract.settings import InvalidSettings
from workers.drivers import links
from workers.drivers.driver import EgressUnavailable
from workers.drivers.firewall import Firewall
from workers.drivers.resolver import find_reach, find_resolver
from workers.drivers.rules import Bridge, Plan, Reach, tables, tables_of_ipv6
from workers.drivers.user_environment import user_environment
from workers.node import make_driver
from workers.sandbox_directory import SandboxDirectory
from workers.settings import EgressSettings, Settings

OWNER = "0123456789abcdef"
CHAIN = f"CF-{OWNER}"
REACH = Reach(
    resolver=IPv4Address("10.0.0.53"),
    proxy=Target(IPv4Network("10.0.0.80/32"), (3128, 3128)),
    allowed=(parse_target("10.1.0.0/16"), parse_target("192.168.1.2:8000-8099")),
)
PLAN = Plan(
    owner=OWNER,
    egress=Bridge("cf-0123456789-e", IPv4Network("172.20.0.0/16")),
    allow=Bridge("cf-0123456789-a", IPv4Network("172.21.0.0/16")),
    reach=REACH,
    listed={"172.21.0.2": ("203.0.113.0/24",)},
)


def test_ranges_are_written_in_one_way() -> None:
    given = ["203.0.113.128/25", "203.0.113.0/25", "198.51.100.7", "203.0.113.9/32"]

    assert canonical(given) == ["198.51.100.7/32", "203.0.113.0/24"]


@pytest.mark.parametrize(
    "text", ["", "all", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1:0", "10.0.0.1:9-8", "::1/128"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_target(text)


def test_a_target_may_be_a_range_or_ports_of_an_address() -> None:
    assert parse_target("10.1.0.0/16") == Target(IPv4Network("10.1.0.0/16"))
    assert parse_target("10.1.2.3:80").ports == (80, 80)
    assert parse_target("10.1.2.3:80-99").ports == (80, 99)


def test_settings_that_are_wrong_are_told_all_at_once() -> None:
    environ = {
        "COLDFRAME_RESOLVER": "dns.example",
        "COLDFRAME_EGRESS_PROXY": "https://proxy",
        "COLDFRAME_ALLOWED_RANGES": "10.0.0.0/8, 10.0.0.1/8",
        "COLDFRAME_LOCAL_NETWORK": "open",
    }

    with pytest.raises(InvalidSettings) as raised:
        Settings.from_env(environ)

    assert all(name in str(raised.value) for name in environ)


def test_without_settings_nothing_private_is_reached() -> None:
    settings = Settings.from_env({})

    assert settings.egress == EgressSettings(redis_url=settings.store.redis_url)
    assert settings.local_network == "none"


def test_the_resolver_is_the_first_that_is_not_on_loopback(tmp_path: Path) -> None:
    conf, systemd = tmp_path / "conf", tmp_path / "systemd"
    conf.write_text("# mine\nnameserver ::1\nnameserver 127.0.0.53\noptions edns0\n")
    systemd.write_text("nameserver 10.0.0.2\nnameserver 10.0.0.3\n")

    assert find_resolver(conf, systemd) == IPv4Address("10.0.0.2")


def test_a_resolver_that_no_sandbox_can_ask_is_no_resolver(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.write_text("nameserver 127.0.0.53\n")

    with pytest.raises(EgressUnavailable, match=r"127\.0\.0\.53.*COLDFRAME_RESOLVER"):
        find_resolver(conf, tmp_path / "missing")


def test_redis_is_shut_where_a_sandbox_could_reach_it() -> None:
    resolver = IPv4Address("10.0.0.53")

    named = find_reach(EgressSettings(resolver, redis_url="redis://:p@198.51.100.7/0"))
    elsewhere = [
        find_reach(EgressSettings(resolver, redis_url=url))
        for url in ("unix:///run/redis.sock", "redis://[::1]:6379/0")
    ]

    assert named.shut == (Target(IPv4Network("198.51.100.7/32"), (6379, 6379)),)
    assert [reach.shut for reach in elsewhere] == [(), ()]


def test_what_is_shut_is_shut_before_anything_can_open_it() -> None:
    reach = dataclasses.replace(REACH, shut=(parse_target("10.1.0.9:6379"),))
    made = tables(dataclasses.replace(PLAN, reach=reach))

    for rules in (made["raw"].chains[CHAIN], made["filter"].chains[f"{CHAIN}-open"]):
        shut = rules.index("-d 10.1.0.9/32 -p tcp -m tcp --dport 6379 -j DROP")
        assert shut < rules.index("-d 10.1.0.0/16 -j RETURN")


def test_a_proxy_on_loopback_is_reached_by_no_sandbox() -> None:
    settings = EgressSettings(resolver=IPv4Address("10.0.0.53"), proxy="http://127.0.0.1:3128")

    with pytest.raises(EgressUnavailable, match="no sandbox reaches"):
        find_reach(settings)


@pytest.mark.parametrize(
    ("setting", "network"),
    [
        ("none", Network.EGRESS),
        ("none", AllowedNetwork(["203.0.113.0/24"])),
        ("host", AllowedNetwork(["203.0.113.0/24"])),
    ],
)
def test_driver_local_gives_no_network_that_it_would_have_to_filter(
    tmp_path: Path, setting: str, network: NetworkPolicy
) -> None:
    environ = {
        "COLDFRAME_STATE_DIR": str(tmp_path),
        "COLDFRAME_DRIVER": "local",
        "COLDFRAME_LOCAL_NETWORK": setting,
    }
    driver = make_driver(Settings.from_env(environ))
    spec = SandboxSpec(network=network)
    sandbox = Sandbox(id="a", name="a", owner="", spec=spec, created_at="")

    with pytest.raises(EgressUnavailable):
        driver.create(sandbox, SandboxDirectory(tmp_path, "a"))

    assert (driver.why_no_egress() == "") is (setting == "host")


def test_a_proxy_is_told_in_the_names_that_programs_look_for() -> None:
    environment = user_environment({}, with_certificates=False, proxy="http://p.example:3128")

    assert environment["https_proxy"] == environment["HTTP_PROXY"] == "http://p.example:3128"
    assert "127.0.0.1" in environment["no_proxy"]


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ("echo '*filter'; echo ':FORWARD ACCEPT [0:0]'; echo COMMIT", "no chain DOCKER-USER"),
        ("echo Permission denied >&2; exit 4", "iptables-save: Permission denied"),
    ],
)
def test_where_rules_would_not_be_in_the_engines_way_there_is_no_egress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: str, said: str
) -> None:
    program = tmp_path / "iptables-save"
    program.write_text(f"#!/bin/sh\n{saved}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(EgressUnavailable, match=said):
        Firewall(OWNER).hold(PLAN)


def test_names_fit_the_kernels_and_iptables_limits() -> None:
    chains = [name for table in tables(PLAN).values() for name in table.chains]

    assert max(map(len, chains)) <= 28
    assert len(PLAN.egress.name) == 15


def test_in_raw_the_node_itself_is_shut_before_a_range_can_open_it() -> None:
    rules = tables(PLAN)["raw"].chains[CHAIN]

    ports = rules.index("-d 192.168.1.2/32 -p tcp -m tcp --dport 8000:8099 -j RETURN")
    local = rules.index("-m addrtype --dst-type LOCAL -j DROP")
    opened = rules.index("-d 10.1.0.0/16 -j RETURN")
    assert ports < local < opened < rules.index("-d 10.0.0.0/8 -j DROP")


def test_whoever_is_not_listed_on_allow_is_rejected() -> None:
    chains = tables(PLAN)["filter"].chains

    assert chains[f"{CHAIN}-allow"][-2:] == [
        f"-s 172.21.0.2/32 -d 203.0.113.0/24 -g {CHAIN}-open",
        "-j REJECT --reject-with icmp-admin-prohibited",
    ]


def test_queries_are_counted_before_established_connections_pass() -> None:
    rules = tables(PLAN)["filter"].chains[f"{CHAIN}-egress"]

    counted = [n for n, rule in enumerate(rules) if "hashlimit" in rule]
    (established,) = [n for n, rule in enumerate(rules) if "ESTABLISHED" in rule]
    assert max(counted) < established


def test_the_proxy_is_opened_for_egress_alone() -> None:
    rules = [
        rule
        for table in tables(PLAN).values()
        for chain in table.chains.values()
        for rule in chain
        if "3128" in rule
    ]

    assert rules
    assert all(rule.startswith("-i cf-0123456789-e ") for rule in rules)


def test_all_jumps_are_to_chains_that_there_are_and_from_both_bridges() -> None:
    for table in (*tables(PLAN).values(), *tables_of_ipv6(PLAN).values()):
        assert {rule.split()[-1] for _, rule in table.jumps} <= set(table.chains)
        bridges = [rule.split()[1] for _, rule in table.jumps]
        assert bridges.count(PLAN.egress.name) == bridges.count(PLAN.allow.name) > 0


def test_own_addresses_are_those_that_the_kernel_calls_local(tmp_path: Path) -> None:
    table = tmp_path / "fib_trie"
    table.write_text(
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n"
        "     |-- 127.0.0.1\n        /32 host LOCAL\n"
        "     |-- 172.17.0.1\n        /32 host LOCAL\n"
        "     |-- 172.17.255.255\n        /32 link BROADCAST\n"
        "     |-- 172.17.0.1\n        /32 host LOCAL\n"
    )

    assert links.own_addresses(table) == ["172.17.0.1"]


def judged(knock: list[str], query: str = "open", ipv6: list[str] | None = None) -> list[str]:
    printed = json.dumps({"knock": knock, "query": query, "ipv6": ipv6 or []})
    return list(egress_test.judge(printed, ["a neighbour", egress_test.PROXY], REACH))


def test_a_node_passes_where_all_is_silent_but_what_is_to_answer() -> None:
    assert judged(["silent", "open"]) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ((["open", "open"],), "reaches a neighbour"),
        ((["refused", "open"],), "reaches a neighbour"),
        ((["silent", "silent"],), "proxy does not answer"),
        ((["silent", "open"], "silent"), "resolver 10.0.0.53 does not answer"),
        ((["silent", "open"], "open", ["eth0"]), "IPv6"),
        ((["silent"],), "did not tell"),
    ],
)
def test_a_node_fails_by_whatever_is_otherwise(seen: tuple[list[str]], said: str) -> None:
    (found,) = judged(*seen)

    assert said in found


def test_a_node_fails_where_nothing_was_told() -> None:
    (found,) = egress_test.judge("", ["a neighbour"], REACH)

    assert "did not tell" in found
