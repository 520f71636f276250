"""The pool alone: which worker gets what, and what becomes of it when workers die."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from caprl_native.rewards.service.counters import Counters
from caprl_native.rewards.service.pool import CALLS, TAKEN, TRIES, Busy, Pool
from caprl_native.rewards.service.protocol import Job, Outcome


def job(name: str) -> Job:
    return Job("qa", name, "image", (0, name))


class Fragile:
    """Scores captions by their length, and dies over "deadly"; `log` keeps its calls."""

    def __init__(self, log: list[list[str]], seconds: float = 0.0) -> None:
        self.log, self.seconds, self.is_dead = log, seconds, False

    async def ready(self) -> None:
        await asyncio.sleep(0)

    async def score(self, jobs: Sequence[Job]) -> list[Outcome]:
        names = [j.caption for j in jobs]
        self.log.append(names)
        await asyncio.sleep(self.seconds)
        if "deadly" in names or self.is_dead:
            self.is_dead = True
            raise RuntimeError("died")
        return [Outcome({"accuracy": len(name) / 100}) for name in names]

    def kill(self) -> None:
        self.is_dead = True


def run(names: list[str], *, workers: int = 1, seconds: float = 0.0, timeout_s: float = 30.0):
    """The outcomes of these captions, the calls, and the counters."""

    async def scored():
        log: list[list[str]] = []
        counters = Counters()
        pool = Pool(lambda: Fragile(log, seconds), workers, 1000, counters)
        pool.open()
        try:
            outcomes = await pool.score([job(name) for name in names], timeout_s)
            return outcomes, log, counters, pool.in_flight
        finally:
            await pool.close()

    return asyncio.run(scored())


def test_all_are_scored_in_order_a_few_at_a_time():
    names = ["x" * (i % 90) for i in range(500)]
    outcomes, log, _, left = run(names, workers=3, seconds=0.001)
    assert [o.values["accuracy"] for o in outcomes] == [len(name) / 100 for name in names]
    assert max(map(len, log)) == TAKEN and sum(map(len, log)) == 500 and left == 0


def test_one_that_kills_is_missing_and_all_others_are_scored():
    names = [f"x{i}" for i in range(20)] + ["deadly"] + [f"y{i}" for i in range(100)]
    outcomes, log, counters, _ = run(names, seconds=0.01)
    assert [i for i, o in enumerate(outcomes) if o.failure] == [20]
    assert outcomes[20].failure == f"{TRIES} workers died over it, the last: RuntimeError: died"
    assert counters.deaths >= TRIES and counters.redone < TRIES * TAKEN * CALLS
    assert log.count(["deadly"]) == TRIES - 1


def test_what_is_not_scored_in_time_is_missing_and_forgotten():
    outcomes, _, _, left = run(["x"] * 3, seconds=5.0, timeout_s=0.05)
    assert {o.failure for o in outcomes} == {"no score within 0.05 s"} and left == 0


def test_a_worker_that_cannot_be_started_is_started_again():
    starts = iter([OSError("no room"), OSError("no room")])

    def start() -> Fragile:
        if error := next(starts, None):
            raise error
        return Fragile([])

    async def scored():
        pool = Pool(start, 1, 1000, Counters())
        pool.open()
        try:
            return await pool.score([job("x")], 10.0)
        finally:
            await pool.close()

    assert asyncio.run(scored())[0].values == {"accuracy": 0.01}


def test_more_than_may_wait_is_turned_away():
    with pytest.raises(Busy):
        run(["x"] * 1001)
    assert run([])[0] == []
