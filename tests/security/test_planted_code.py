"""Code that is planted where Python and the loader look, to run as the runtime instead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox_runtime.protocol.requests import CheckoutRequest
from tests.client import Client, Event
from tests.conftest import DRIVER
from tests.containers import runtime_of
from tests.platform import Platform
from workers.contract.jobs import new_id

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local is for trusted code")

BOX = "planted"

# Each leaves a mark with the user that it ran as.
PLANT = r"""
mark='import os; open(f"/tmp/ran-as-{os.getuid()}", "a").close()'
user_site=$(python3 -c 'import site; print(site.getusersitepackages())')
mkdir -p "$user_site" /workspace/packages
echo "$mark" > "$user_site/planted.pth"
for name in sitecustomize usercustomize json msgspec git asyncio sandbox_runtime; do
    for directory in "$user_site" /workspace /workspace/packages; do
        echo "$mark" > $directory/$name.py
    done
done
rm -f /workspace/json.py /workspace/asyncio.py "$user_site"/{json,asyncio}.py
cat > planted.c <<'C'
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) void run(void) {
    char name[64];
    snprintf(name, sizeof name, "/tmp/ran-as-%d", getuid());
    FILE *mark = fopen(name, "a");
    if (mark) fclose(mark);
}
C
gcc -shared -fPIC planted.c -o planted.so
printf '[core]\n\tfsmonitor = touch /tmp/ran-as-$(id -u)\n' > ~/.gitconfig
"""
VARIABLES = {
    "LD_PRELOAD": "/workspace/planted.so",
    "LD_LIBRARY_PATH": "/workspace",
    "PYTHONPATH": "/workspace/packages",
    "PYTHONSTARTUP": "/workspace/sitecustomize.py",
    "BASH_ENV": "/workspace/planted.sh",
    "GIT_EXEC_PATH": "/workspace",
}


@pytest.fixture(scope="module")
def sandbox(api: Client) -> Iterator[Event]:
    made = api.sandbox(BOX)
    planted = api.exec(BOX, PLANT)
    assert planted["exitCode"] == 0, planted
    yield made
    api.remove(BOX)


def run_all(api: Client, platform: Platform, sandbox: Event) -> set[str]:
    """Has the runtime start all that it can; the users that the planted code then ran as."""
    api.exec(BOX, "python3 -c 0")
    api.http.post(f"/v1/sandboxes/{BOX}/exec", json={"argv": ["python3", "-c", "0"]})
    api.code(BOX, "1")
    client = runtime_of(platform, sandbox)
    checkout = CheckoutRequest(repo_url="http://127.0.0.1:1/x.git", target_dir="/workspace/x")
    with client.execution(new_id(), checkout, boot_id=None) as reader:
        assert list(reader)
    client.close()
    return set(api.exec(BOX, "cd /tmp; ls -d ran-as-* | cut -d- -f3")["stdout"].split())


def test_what_is_planted_runs_as_the_user_alone(
    api: Client, platform: Platform, sandbox: Event
) -> None:
    """In shells, programs, kernels and checkouts, also of a sandbox that starts again with it."""
    own = api.exec(BOX, "id -u")["stdout"].strip()
    answer = api.http.put(f"/v1/sandboxes/{BOX}/env", json={"env": VARIABLES})
    assert answer.status_code == 204, answer.text

    ran = run_all(api, platform, sandbox)
    for change in ("stop", "start"):
        answer = api.http.post(f"/v1/sandboxes/{BOX}/{change}")
        assert answer.status_code == 200, answer.text
    ran_after_start = run_all(api, platform, sandbox)

    assert ran == {own}
    assert ran_after_start == {own}
