"""Kills at random what a platform consists of, while it works: `SEED=7 ROUNDS=50 make chaos`.

It has a platform and a Docker engine of its own. With the seed it chooses the same faults in the
same order; when they strike, the machine decides. It lies with the tests, whose platform and client
it uses.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.chaos import leftovers
from tests.chaos.faults import Faults
from tests.chaos.ledger import Books
from tests.chaos.load import Load
from tests.client import Client, is_ready, wait_for
from tests.engine import Engine
from tests.platform import Platform
from workers.contract.store import PoolStore

BOXES = ["anemone", "borage", "clover"]
PROGRESS_JOBS = 5
"""So many jobs must end after each fault, before the next one strikes."""
PROGRESS_DEADLINE_S = 60.0
LONGEST_CALM_S = 0.7
END_DEADLINE_S = 120.0
CLEAN_DEADLINE_S = 60.0


class Run:
    """One run, and what was seen in it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._seed = seed
        self._engine = Engine(directory / "engine")
        self._platform = Platform(directory / "state", "docker", DOCKER_HOST=self._engine.host)
        self._books = Books()
        self.struck: Counter[str] = Counter()
        self.recovery_s: list[float] = []

    def rounds(self, count: int) -> list[str]:
        """What went wrong; empty where nothing did."""
        self._engine.start()
        try:
            self._platform.up_with_image(self._engine.load_small_image())
            api = self._platform.client()
            with api.http:
                wait_for(lambda: is_ready(api), "the platform is ready", 60)
                return self._rounds(api, count)
        finally:
            try:
                self._platform.down()
            finally:
                self._engine.leave()

    def report(self) -> Iterator[str]:
        jobs = self._books.accepted
        faults = ", ".join(f"{name} {n}" for name, n in sorted(self.struck.items()))
        yield f"{sum(self.struck.values())} faults: {faults}"
        succeeded = sum(job.ended and job.succeeded for job in jobs)
        yield (
            f"{len(jobs)} jobs: {succeeded} succeeded, {len(jobs) - succeeded} ended with one of "
            f"the {self._books.killed} sandboxes that were killed"
        )
        if self.recovery_s:
            median_s, most_s = statistics.median(self.recovery_s), max(self.recovery_s)
            yield (
                f"{PROGRESS_JOBS} jobs had ended after a fault in {median_s:.1f} s at the median, "
                f"{most_s:.1f} s at the most"
            )

    def _rounds(self, api: Client, count: int) -> list[str]:
        faults = Faults(self._platform, self._engine, self._books, self._rng)
        load = Load(api, self._books, BOXES, self._seed)
        load.start()
        try:
            for number in range(1, count + 1):
                name = self._rng.choice(faults.names)
                print(f"{time.strftime('%H:%M:%S')} round {number}: {name}", flush=True)
                time.sleep(self._rng.uniform(0, LONGEST_CALM_S))
                faults.strike(name)
                self.struck[name] += 1
                self._wait_for_progress(name)
                if self._books.failures:
                    break
        except AssertionError as error:
            self._books.fail(str(error))
        finally:
            load.finish(END_DEADLINE_S)
        wait_for(lambda: is_ready(api), "the platform is ready", 60)
        wrong = list(self._check(api))
        for box in BOXES:
            api.remove(box)
        return [*wrong, *self._what_is_left()]

    def _wait_for_progress(self, after: str) -> None:
        started, goal = time.monotonic(), self._books.ended + PROGRESS_JOBS
        wait_for(
            lambda: self._books.ended >= goal or self._books.failures,
            f"jobs end again after: {after}",
            PROGRESS_DEADLINE_S,
        )
        self.recovery_s.append(time.monotonic() - started)

    def _check(self, api: Client) -> Iterator[str]:
        with redis.Redis.from_url(self._platform.redis_url, decode_responses=True) as client:
            sandbox_of = {}
            for job in self._books.accepted:
                sandbox_id = client.hget(f"cf:job:{job.id}", "sandbox_id")
                # A build's has the build's own id.
                sandbox_of[job.id] = str(sandbox_id or job.id)
        for box in BOXES:
            answer = api.http.get(f"/v1/sandboxes/{box}")
            if answer.status_code == 200:
                sandboxes = self._platform.state_dir / "sandboxes"
                self._books.read_ledger(answer.json()["id"], sandboxes, killed=False)
        told_late = {
            job.id: api.follow_to_the_end(job.id) for job in self._books.accepted if job.ended
        }
        yield from self._books.check(sandbox_of, told_late)

    def _what_is_left(self) -> list[str]:
        """First while it runs and cleans up by itself, then after its end."""
        deadline = time.monotonic() + CLEAN_DEADLINE_S
        while True:
            ready, sent_jobs = self._kept_in_redis()
            left = [
                one
                for one in leftovers.of_sandboxes(self._platform.state_dir, self._engine)
                if not any(sandbox_id in one for sandbox_id in ready)
            ]
            # A reader may know of an end that Redis has forgotten, and is to be told again.
            left += [f"{job_id}, counted as sent" for job_id in sent_jobs]
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self._platform.down()
        left += leftovers.of_sandboxes(self._platform.state_dir, self._engine)
        left += leftovers.of_programs(self._platform.state_dir)
        return [f"left behind: {one}" for one in left]

    def _kept_in_redis(self) -> tuple[set[str], list[str]]:
        """Sandboxes that the pool keeps for who comes next; jobs that are counted as sent."""
        with redis.Redis.from_url(self._platform.redis_url) as client:
            store = PoolStore(client)
            ready = {one.id for kind in store.kinds() for one in store.list_of(kind)}
            return ready, [raw.decode() for raw in client.zrange("cf:sent-jobs", 0, -1)]


def main() -> int:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
    count = int(os.environ.get("ROUNDS") or 10)
    print(f"SEED={seed} ROUNDS={count}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    run = Run(directory, seed)
    wrong = run.rounds(count)
    print("\n".join([*run.report(), *(f"WRONG: {one}" for one in wrong)]))
    if wrong:
        print(f"The logs are in {directory}/state/logs.")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
