"""Terms that shape captions count where there is accuracy to protect."""

from __future__ import annotations

import random

import pytest

from caprl_native.config.cli import load
from caprl_native.config.schema import Config
from caprl_native.rewards.base import Score
from caprl_native.rewards.rubric import WeightedTerm, fill
from caprl_native.rewards.terms.custom import Custom, CustomOptions
from caprl_native.rewards.terms.length import Length, LengthOptions
from caprl_native.types import Rollout


def term(name: str, weight: float, shaping: bool) -> WeightedTerm:
    options = CustomOptions(weight=weight, shaping=shaping, import_path="math:sqrt")
    return WeightedTerm(name, weight, Custom(options, None))


def filled(told: float, shaped: float, *, gate: bool, weight: float = 0.2) -> Rollout:
    rollout = Rollout([1], [], "stop", "")
    terms = [(term("told", 2.0, False), Score(told)), (term("shaped", weight, True), Score(shaped))]
    fill(rollout, terms, gate=gate)
    return rollout


def test_the_gate_scales_shaping_by_what_is_told() -> None:
    rng = random.Random(0)
    for _ in range(200):
        told, shaped = rng.uniform(-1, 2), rng.random()
        plain, gated = filled(told, shaped, gate=False), filled(told, shaped, gate=True)
        factor = min(1.0, max(0.0, told))
        assert plain.total == pytest.approx(2.0 * told + 0.2 * shaped)
        assert gated.total == pytest.approx(2.0 * told + 0.2 * shaped * factor)
        assert plain.utility == gated.utility == 2.0 * told
        assert gated.parts == {"shaped/ungated": shaped} and plain.parts == {}
        total = sum(w * gated.rewards[n] for n, w in (("told", 2.0), ("shaped", 0.2)))
        assert gated.total == pytest.approx(total)


def test_nothing_told_earns_nothing_by_its_shape() -> None:
    assert filled(0.0, 1.0, gate=True).total == 0.0


def test_alone_a_shaping_term_is_not_gated() -> None:
    rollout = Rollout([1], [], "stop", "")
    length = WeightedTerm("length", 1.0, Length(LengthOptions(), None))
    fill(rollout, [(length, Score(0.5))], gate=True)
    assert rollout.total == 0.5 and rollout.utility is None


def test_recipes_are_as_published_and_the_default_is_not() -> None:
    assert Config().reward.gate and Config().algorithm.flat.by == "utility"
    for recipe in ("image", "video", "s2d_image", "s2d_video"):
        config = load(Config, [f"{recipe}.toml"], [])
        assert not config.reward.gate and config.algorithm.flat.by == "total"
        assert config.algorithm.flat.spread == 0.0
