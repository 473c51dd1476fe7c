"""What a request cannot ask for: names that lead elsewhere, and a container of one's own making."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.client import Client

NAMES = [
    "..",
    ".",
    "../other",
    "a/b",
    "/etc/passwd",
    "$(id)",
    "`id`",
    "a;id",
    "a\nb",
    "a\0b",
    "a b",
    "-rf",
    "böx",
    "a\u202eb",
    "*",
    "sandbox:*",
    "x" * 10_000,
    "%2e%2e%2f",
]

WISHES = {
    "mounts": [{"source": "/", "target": "/host"}],
    "binds": ["/:/host"],
    "volumes": {"/": "/host"},
    "privileged": True,
    "capAdd": ["SYS_ADMIN"],
    "securityOpt": ["seccomp=unconfined"],
    "runtime": "other",
    "user": "0:0",
    "devices": ["/dev/kmsg"],
    "pidMode": "host",
    "entrypoint": ["/bin/sh"],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_could_lead_elsewhere_is_refused(api: Client, name: str) -> None:
    path = f"/v1/sandboxes/{quote(name, safe='')}"

    for answer in (api.http.put(path, json={}), api.http.post(f"{path}/exec", json={})):
        assert answer.status_code in (400, 404, 405, 414, 422), answer.text
        assert "Traceback" not in answer.text
    made = api.http.get("/v1/sandboxes").json()["sandboxes"]
    assert name not in {sandbox["name"] for sandbox in made}


@pytest.mark.parametrize("wish", WISHES)
def test_what_a_container_is_made_of_is_not_for_requests_to_say(api: Client, wish: str) -> None:
    answer = api.http.put("/v1/sandboxes/wisher", json={wish: WISHES[wish]})

    assert answer.status_code == 422, answer.text
    assert wish in answer.text
    assert api.http.get("/v1/sandboxes/wisher").status_code == 404


@pytest.mark.parametrize("image", ["debian", "../x", "sha256:" + "0" * 64, "a@b", "registry/x:1"])
def test_only_images_that_the_operator_has_added_can_be_named(api: Client, image: str) -> None:
    answer = api.http.put("/v1/sandboxes/wisher", json={"image": image})

    assert answer.status_code == 422, answer.text
    assert api.http.get("/v1/sandboxes/wisher").status_code == 404


@pytest.mark.parametrize("network", ["host", "container:other", "bridge", ""])
def test_a_sandbox_joins_no_network_but_ours(api: Client, network: str) -> None:
    answer = api.http.put("/v1/sandboxes/wisher", json={"network": network})

    assert answer.status_code == 422, answer.text


def test_ids_are_made_by_the_platform_and_cannot_be_guessed(api: Client) -> None:
    ids = {api.sandbox(f"id-{number}")["id"] for number in range(2)}
    for number in range(2):
        api.remove(f"id-{number}")

    assert len(ids) == 2
    assert all(len(made) == 26 and made.isalnum() for made in ids)  # 128 bits in base32.
    assert api.http.put("/v1/sandboxes/wisher", json={"id": "mine"}).status_code == 422
