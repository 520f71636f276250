"""No attack gains on any recipe; the demo's reader stands in for theirs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from caprl_native.config.cli import load
from caprl_native.config.schema import Config
from caprl_native.distributed.world import ParallelDims
from caprl_native.rewards.laboratory.trial import (
    Outcome,
    RememberingReader,
    rubric_of,
    table,
    try_attacks,
)
from caprl_native.rewards.readers import build_reader
from caprl_native.testing.demo_world.subjects import demo_subjects
from tests.ranks import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import attack_rewards  # noqa: E402

BOUND = 0.02
RECIPES = [
    path.name
    for path in sorted((ROOT / "train_configs").glob("*.toml"))
    if re.search(r"^\[reward", path.read_text(), re.MULTILINE)
    and not re.search(r"laid over a recipe", path.read_text())
    and load(Config, [path.name]).reward.reads  # attacks are on captions that a reader reads
]


@pytest.fixture(scope="module")
def reader(dims: ParallelDims) -> Iterator[RememberingReader]:
    """The demo's, for all recipes: they ask the same of the same captions."""
    config = attack_rewards.stand_in(str(ROOT / "demo_models/reader"), Config().reward.reader)
    with closing(build_reader(config)) as built:
        yield RememberingReader(built)


def attacked(reader: RememberingReader, files: list[str], *words: str) -> list[Outcome]:
    config = load(Config, files, list(words))
    rubric = rubric_of(config.reward, lambda: reader)
    return try_attacks(rubric, demo_subjects(5, 5), attack_rewards.token_counter(""))


def test_the_recipes_are_found() -> None:
    assert {"demo.toml", "image.toml", "video.toml"} <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_attack_gains_on_a_recipe(recipe: str, reader: RememberingReader) -> None:
    outcomes = attacked(reader, [recipe])
    print(table(outcomes, BOUND))
    assert [o.attack for o in outcomes if o.exceeds(BOUND)] == []
    assert all(o.lost == 0 for o in outcomes)
    (before,) = {o.terms["accuracy"][0] for o in outcomes if o.attack == "empty"}
    assert before > 0.8  # the captions are good ones


def test_made_up_details_gain_until_wrong_answers_cost(reader: RememberingReader) -> None:
    def gain(*words: str) -> float:
        outcomes = attacked(reader, ["image.toml"], *words)
        return next(o.gain or 0.0 for o in outcomes if o.attack == "made-up details")

    assert gain() > BOUND >= gain("--reward.terms.accuracy.misled_weight=1")


def test_none_gains_with_the_gate_on(reader: RememberingReader) -> None:
    outcomes = attacked(reader, ["video.toml"], "--reward.gate=true")
    assert [o.attack for o in outcomes if o.exceeds(BOUND)] == []
    (empty,) = [o for o in outcomes if o.attack == "empty"]
    assert empty.terms["length"][1] <= 0.02  # told nothing, earned nothing


def test_the_published_formula_pays_for_a_single_bracket(reader: RememberingReader) -> None:
    outcomes = attacked(reader, ["video.toml"], "--reward.terms.timestamps.rule=release")
    found = {o.attack: o.terms["timestamps"][1] for o in outcomes if o.exceeds(BOUND)}
    assert found["one [00:00]"] == found["one [99:00]"] == 1.0
    assert {"stamps in a row", "stamps beyond the end"} <= found.keys()
