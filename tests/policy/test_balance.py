"""Groups move to the ranks that have least, and stay where moving them gains nothing."""

import random

import pytest

from caprl_native.policy.balance import MIN_GAIN, moves


def after(loads: list[list[float]]) -> list[float]:
    total = [sum(row) for row in loads]
    for source, target, index in moves(loads):
        total[source] -= loads[source][index]
        total[target] += loads[source][index]
    return total


@pytest.mark.parametrize("loads", [[[3.0]], [[2.0, 2.0], [4.0]], [[], []], [[1.0, 1.01], [2.0]]])
def test_nothing_moves_where_nothing_is_gained(loads):
    assert moves(loads) == []


def test_one_rank_that_has_all_gives_half():
    assert after([[1.0] * 8, []]) == [4.0, 4.0]


@pytest.mark.parametrize("seed", range(20))
def test_the_slowest_rank_gets_faster_and_no_group_is_lost(seed):
    rng = random.Random(seed)
    loads = [[rng.uniform(1, 10) for _ in range(rng.randint(0, 12))] for _ in range(4)]
    found = moves(loads)
    assert len({(source, index) for source, _, index in found}) == len(found)
    total = after(loads)
    assert sum(total) == pytest.approx(sum(map(sum, loads)))
    assert max(total) <= max(map(sum, loads))
    largest = max((cost for row in loads for cost in row), default=0.0)
    assert max(total) <= sum(total) / 4 + largest / 2 + MIN_GAIN * max(total) + 1e-9
