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
    """Scores captions by their length; "deadly" kills it. `log` keeps its calls."""

    ends_when_killed = True

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


@pytest.mark.parametrize("ends_when_killed", [True, False])
def test_a_worker_that_hangs_is_replaced_if_that_ends_it(ends_when_killed: bool):
    started: list[Fragile] = []

    def start() -> Fragile:
        worker = Fragile([], seconds=0.0 if started else 0.5)
        worker.ends_when_killed = ends_when_killed
        started.append(worker)
        return worker

    async def scored():
        counters = Counters()
        pool = Pool(start, 1, 1000, counters, hung_s=0.1)
        pool.open()
        try:
            return await pool.score([job(f"x{i}") for i in range(40)], 10.0), counters
        finally:
            await pool.close()

    outcomes, counters = asyncio.run(scored())
    assert not any(o.failure for o in outcomes)
    assert counters.deaths == len(started) - 1 == int(ends_when_killed)
    assert started[0].is_dead


def test_it_is_not_ready_while_no_worker_lives_and_captions_wait():
    gate = asyncio.Event()
    started: list[Fragile] = []

    class Slow(Fragile):
        async def ready(self) -> None:
            if len(started) > 1:  # the second one takes its time
                await gate.wait()

    def start() -> Fragile:
        started.append(Slow([]))
        return started[-1]

    async def watched():
        pool = Pool(start, 1, 1000, Counters())
        assert not pool.has_started
        pool.open()
        try:
            await pool.score([job("x")], 10.0)
            assert pool.is_ready
            waiting = asyncio.create_task(pool.score([job("deadly"), job("x")], 10.0))
            while pool.is_ready:
                await asyncio.sleep(0.001)
            assert pool.has_started and not waiting.done()
            gate.set()
            return await waiting
        finally:
            await pool.close()

    deadly, other = asyncio.run(watched())
    assert deadly.failure and other.values == {"accuracy": 0.01}


def test_more_than_may_wait_is_turned_away():
    with pytest.raises(Busy):
        run(["x"] * 1001)
    assert run([])[0] == []
