"""Groups that carry no gradient: those whose captions tell equally much."""

from __future__ import annotations

import random

import pytest

from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.batch import Batch
from caprl_native.config.flat import FlatConfig
from caprl_native.config.schema import AlgorithmConfig
from caprl_native.observe.metrics import group_metrics, numbers
from caprl_native.policy import advantages
from caprl_native.policy.advantages import assign_advantages, facts_of, is_flat, levelled
from caprl_native.rewards.rubric import Scoring
from caprl_native.types import Group, Rollout, Sample

WEIGHTS = {"accuracy": 1.0, "length": 0.2}
AS_PUBLISHED = {"by": "total", "spread": 0.0}
KINDS = [name for name in ADVANTAGES if name != "custom"]


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advantages.dist, "get_rank", lambda: 0)


def group(accuracies: list[float], lengths: list[float]) -> Group:
    rollouts = []
    for accuracy, length in zip(accuracies, lengths, strict=True):
        rewards = {"accuracy": accuracy, "length": length}
        total = sum(WEIGHTS[name] * value for name, value in rewards.items())
        one = Rollout([1, 2], [], "stop", "", rewards=rewards, total=total, utility=accuracy)
        one.parts = {"memory/count": 1.0 if accuracy > 0.4 else -1.0}
        rollouts.append(one)
    return Group(Sample("s", (), ()), None, rollouts)


def assigned(groups: list[Group], **settings) -> list[list[float]]:
    algorithm = AlgorithmConfig(**settings)
    assign_advantages(groups, [[facts_of(g) for g in groups]], algorithm, WEIGHTS)
    return [[r.advantage for r in g.rollouts] for g in groups]


def nearly_equal() -> Group:
    return group([0.5] * 8, [1.0] * 7 + [0.99])


@pytest.mark.parametrize("kind", KINDS)
def test_a_little_length_alone_is_no_gradient(kind: str) -> None:
    """Beside a group that has one, too: its statistics do not see the flat one."""
    live = group([0.1, 0.9, 0.5, 0.4], [1.0, 0.2, 0.9, 1.0])
    alone = assigned([nearly_equal()], advantage={"type": kind})
    flat, beside = assigned([nearly_equal(), live], advantage={"type": kind})
    assert alone == [[0.0] * 8] and flat == pytest.approx([0.0] * 8, abs=1e-12)
    assert min(beside) < 0 < max(beside)


def test_as_published_it_is_one_of_2_47() -> None:
    (published,) = assigned([nearly_equal()], flat=AS_PUBLISHED)
    assert published == pytest.approx([0.354] * 7 + [-2.475], abs=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_that_differs_in_accuracy_keeps_what_it_had(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(20):
        live = [
            group([rng.random() for _ in range(4)], [rng.random() for _ in range(4)])
            for _ in range(3)
        ]
        ours = assigned(live, advantage={"type": kind})
        published = assigned(live, advantage={"type": kind}, flat=AS_PUBLISHED)
        assert ours == published


def test_equal_totals_of_different_terms_are_gdpo_s_business_as_published() -> None:
    groups = [group([0.5, 0.7], [1.0, 0.0]), group([0.1, 0.9], [1.0, 1.0])]
    (first, second), _ = assigned(groups, advantage={"type": "gdpo"}, flat=AS_PUBLISHED)
    assert groups[0].rollouts[0].total == groups[0].rollouts[1].total and first != 0 != second


def test_whitening_gives_all_of_a_flat_group_the_same() -> None:
    live = group([0.1, 0.9, 0.5, 0.4], [1.0, 0.2, 0.9, 1.0])
    flat, _ = assigned([nearly_equal(), live], whiten=True)
    assert len(set(flat)) == 1


def test_what_differs_by_no_more_than_the_spread_is_equal() -> None:
    flat = FlatConfig()
    assert flat.holds([0.7, 0.5], [0.5, 0.5 + 0.9e-3])
    assert not flat.holds([0.7, 0.7], [0.5, 0.502])
    assert not FlatConfig(spread=0.0).holds([0.7, 0.7], [0.5, 0.5 + 1e-9])
    assert flat.holds([0.5], [0.5]) and flat.holds([], [])


def test_without_other_terms_the_total_decides() -> None:
    flat = FlatConfig()
    assert not flat.holds([0.2, 0.1], [None, None]) and flat.holds([0.2, 0.2], [None, None])
    assert not FlatConfig(by="total").holds([0.2, 0.1], [0.5, 0.5])


def test_levelled_facts_keep_what_they_are_in_the_mean() -> None:
    facts = facts_of(nearly_equal())
    level = levelled(facts)
    assert len({f.total for f in level}) == 1 == len({f.rewards["length"] for f in level})
    for pick in (lambda f: f.total, lambda f: f.rewards["length"]):
        assert sum(map(pick, level)) == pytest.approx(sum(map(pick, facts)))
    assert [f.tokens for f in level] == [f.tokens for f in facts]


def test_refill_and_metrics_know_flat_groups_by_their_accuracy() -> None:
    live = group([0.1, 0.9], [1.0, 1.0])
    for flat, kept in ((FlatConfig(), 1), (FlatConfig(by="total", spread=0.0), 2)):
        groups = [nearly_equal(), live]
        metrics = numbers(group_metrics(groups, list(WEIGHTS), flat))
        assert metrics["reward/zero_std_groups"] == 2 - kept
        batch = Batch(1, groups, Scoring(None, 1), [2, 0], everywhere=[[*map(facts_of, groups)]])
        batch.drop_flat(flat)
        assert len(batch.groups) == kept == len(batch.everywhere[0])
        assert not any(is_flat(f, flat) for f in batch.everywhere[0])
        assert len(batch.sampled) == 2
