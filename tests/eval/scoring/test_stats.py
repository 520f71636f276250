"""Bootstrap intervals of a mean."""

import tracemalloc

import numpy as np
import pytest

from eval.scoring.stats import bootstrap_interval, paired_interval

RNG = np.random.default_rng(0)
VALUES = RNG.random(200)


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_it_matches_the_normal_approximation() -> None:
    """Of a mean of 200 values the percentile bootstrap is close to mean +- 1.96 standard errors."""
    low, high = bootstrap_interval(VALUES, draws=4000)
    error = VALUES.std() / np.sqrt(len(VALUES))
    assert (low, high) == pytest.approx(
        (VALUES.mean() - 1.96 * error, VALUES.mean() + 1.96 * error), abs=0.1 * error
    )


@pytest.mark.parametrize("size", [1, 5], ids=["alone", "clusters of five"])
def test_coverage(size: int) -> None:
    """90% intervals of data with a known mean hold it nine times in ten; clusters are heeded."""
    trials, held = 300, 0
    for trial in range(trials):
        groups = np.random.default_rng(trial).random(60).repeat(size)
        clusters = np.arange(60).repeat(size).tolist() if size > 1 else None
        low, high = bootstrap_interval(groups, 0.9, draws=300, seed=trial, clusters=clusters)
        held += low <= 0.5 <= high
    assert 0.83 < held / trials < 0.96


def test_same_arguments_same_interval() -> None:
    assert bootstrap_interval(VALUES) == bootstrap_interval(list(VALUES))
    assert bootstrap_interval(VALUES, seed=1) != bootstrap_interval(VALUES)
    each = [f"item {number}" for number in range(len(VALUES))]
    assert bootstrap_interval(VALUES, clusters=each) == bootstrap_interval(VALUES)


def test_shift_scale_and_confidence() -> None:
    low, high = bootstrap_interval(VALUES)
    assert VALUES.min() <= low < VALUES.mean() < high <= VALUES.max()
    shifted = (3 * low + 2, 3 * high + 2)
    assert bootstrap_interval(3 * VALUES + 2) == pytest.approx(shifted)
    assert width(bootstrap_interval(VALUES, 0.5)) < high - low
    assert bootstrap_interval([0.7] * 9) == pytest.approx((0.7, 0.7))


def test_copies_within_a_cluster_add_no_certainty() -> None:
    copies, clusters = VALUES.repeat(10), np.arange(len(VALUES)).repeat(10).tolist()
    assert bootstrap_interval(copies, clusters=clusters) == pytest.approx(
        bootstrap_interval(VALUES)
    )
    assert width(bootstrap_interval(copies)) < 0.5 * width(bootstrap_interval(VALUES))


def test_pairs() -> None:
    better = VALUES + 0.05 + 0.01 * RNG.random(len(VALUES))
    low, high = paired_interval(better, VALUES)
    assert 0.05 < low < high < 0.06
    assert paired_interval(VALUES, better) == pytest.approx((-high, -low), abs=1e-4)
    assert paired_interval(VALUES, VALUES) == (0.0, 0.0)


def test_memory_is_bounded() -> None:
    values = RNG.random(100_000)
    tracemalloc.start()
    try:
        bootstrap_interval(values, draws=40)
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "non-empty"),
        ({"values": [0.1, float("nan")]}, "finite"),
        ({"values": [0.1], "confidence": 1.0}, "confidence"),
        ({"values": [0.1], "draws": 0}, "draws"),
        ({"values": [0.1, 0.2], "clusters": ["a"]}, "1 cluster keys for 2 values"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)
    with pytest.raises(ValueError, match="the same items: 1 and 2 values"):
        paired_interval([0.1], [0.1, 0.2])
