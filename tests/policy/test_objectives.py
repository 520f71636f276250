"""Every loss, advantage, KL estimator and correction that a config can name, in a step of training.

Run by itself with -s it prints how much of `caprl_native/algorithm` configs reach.
"""

import math
import statistics
from collections import defaultdict
from typing import Literal, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel

from caprl_native.algorithm.registries import ADVANTAGES, CORRECTIONS, KL, LOSSES
from caprl_native.config.schema import AlgorithmConfig
from caprl_native.testing.tiny_models import write_tiny_vlm
from tests.programs.objectives import cases
from tests.ranks import run_ranks

SAME = 2e-5  # relative, in float32
NAMES = [name for name, _ in cases()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By number of ranks: the reports of the ranks, and what rank 0 wrote."""
    folder = tmp_path_factory.mktemp("objectives")
    path = write_tiny_vlm(folder / "model", layers=2)
    return {
        ranks: (
            run_ranks("objectives", ranks, path, folder),
            torch.load(folder / f"{ranks}.pt"),
        )
        for ranks in (1, 2)
    }


def test_every_entry_is_among_the_cases() -> None:
    for kind, registry in {"loss": LOSSES, "advantage": ADVANTAGES, "kl": KL}.items():
        assert {f"{kind} {name}" for name in registry} <= set(NAMES)
    assert {n.split()[1] for n in NAMES if n.startswith("correction")} == set(CORRECTIONS)


def test_every_value_of_every_choice_is_among_the_cases() -> None:
    """Of the algorithm's settings, those of each entry included."""
    seen: dict[tuple[str, str], set[object]] = defaultdict(set)

    def see(table: BaseModel) -> None:
        kind = getattr(table, "type", "")
        for name in type(table).model_fields:
            value = getattr(table, name)
            for inner in value.values() if isinstance(value, dict) else [value]:
                if isinstance(inner, BaseModel):
                    see(inner)
            if not isinstance(value, dict | list | BaseModel):
                seen[kind, name].add(value)

    for _, changes in cases():
        see(AlgorithmConfig().replace(**changes))
    tables = [("", AlgorithmConfig)] + [
        (name, registry[name].options)
        for registry in (LOSSES, ADVANTAGES, KL, CORRECTIONS)
        for name in registry
    ]
    choices = {
        (kind, name): get_args(field.annotation)
        for kind, table in tables
        for name, field in table.model_fields.items()
        if get_origin(field.annotation) is Literal
    }
    choices["", "whiten"] = (False, True)
    assert len(choices) > 25
    assert not {key: left for key, all_ in choices.items() if (left := set(all_) - seen[key])}


@pytest.mark.parametrize("name", NAMES)
def test_cuts_and_ranks_change_neither_gradients_nor_metrics(runs, name) -> None:
    for ranks in (1, 2):
        # A rank's share of a batch is what it cuts into mini-batches: those depend on the ranks.
        want = runs[ranks if name.startswith("two updates") else 1][1][name]["whole"]
        assert want["gradients"].norm() > 0
        for got in runs[ranks][1][name].values():
            gap = (got["gradients"] - want["gradients"]).norm() / want["gradients"].norm()
            assert gap < SAME, (ranks, float(gap))
            if name.startswith("two updates"):
                continue  # Adam makes much of rounding, before the second one
            assert got["metrics"] == pytest.approx(want["metrics"], rel=1e-4, abs=1e-6)


def test_ranks_agree_on_metrics_and_share_the_advantages(runs) -> None:
    for ranks, (reports, _) in runs.items():
        assert all(r["metrics"] == reports[0]["metrics"] for r in reports), ranks
    for name in NAMES:
        one, two = (runs[ranks][1][name]["whole"]["advantages"] for ranks in (1, 2))
        local = one[:3] + one[6:9]  # rank 0 has the first and the third group
        assert two == pytest.approx(local, rel=1e-12), name


@pytest.mark.parametrize("cut", ["whole", "pieces"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_published_objectives_are_their_formulas(runs, ranks, cut) -> None:
    """In plain Python, from the log-probs and rewards of all responses."""
    plus = runs[ranks][1]["published video"][cut]
    assert plus["metrics"]["policy/loss"] == pytest.approx(
        statistics.mean(_caprl_plus_plus(row) for row in plus["rows"]), rel=1e-5
    )
    assert plus["metrics"]["policy/clip_frac"] > 0
    first = runs[ranks][1]["published caprl_image"][cut]
    tokens = [row["advantage"][0] for row in first["rows"] for _ in row["trainer"]]
    assert statistics.mean(tokens) == pytest.approx(0, abs=1e-6)
    assert statistics.pvariance(tokens) == pytest.approx(1, rel=1e-5)
    assert first["metrics"]["policy/loss"] == pytest.approx(0, abs=1e-6)
    assert first["metrics"]["policy/clip_frac"] == 0


def _caprl_plus_plus(row: dict[str, list[float]]) -> float:
    """The mean over a response's tokens: the ratio to the engine clipped, twice."""
    (a,) = row["advantage"]
    losses = []
    for trainer, engine in zip(row["trainer"], row["engine"], strict=True):
        ratio = math.exp(trainer - engine)
        loss = max(-a * ratio, -a * min(max(ratio, 0.8), 1.2))
        losses.append(min(loss, -3.0 * a) if a < 0 else loss)
    return statistics.mean(losses)


def test_entries_differ(runs) -> None:
    """Nothing silently falls back on another one."""
    results = runs[1][1]
    same_on_purpose = [
        {"advantage grpo none", "advantage dr_grpo"},
        {"advantage grpo", "correction tis token", "aggregation token-mean"},  # the default
        {"loss reinforce", "correction none "},  # on policy ppo has the same gradient
        {"kl k2", "kl k2+"},
        {"kl k1+", "kl k2", "kl k2+", "kl k3+", "kl abs+"},  # one gradient, other values
    ]
    gradients = {name: results[name]["whole"]["gradients"] for name in NAMES}
    same = [
        {name, other}
        for i, name in enumerate(NAMES)
        for other in NAMES[:i]
        if torch.equal(gradients[name], gradients[other])
    ]
    assert not [pair for pair in same if not any(pair <= group for group in same_on_purpose)]


def test_configs_reach_the_algorithm(runs) -> None:
    reached = runs[1][0][0]["reached"]
    total = sum(count for count, _ in reached.values())
    missed = {file: lines for file, (_, lines) in reached.items() if lines}
    share = 1 - sum(map(len, missed.values())) / total
    print(f"\nalgorithm/: {share:.1%} of {total} statements reached from configs; not: {missed}")
    assert share >= 0.95, missed
