"""The published objectives on a batch that is calculated by hand, on one rank and over two.

Four captions of two prompts, 1, 3, 2 and 2 tokens, with rewards 1, 1/2 | 1/4, 3/4. Leave-one-out
advantages are 1/2, -1/2 | -1/2, 1/2. Counted by tokens they add up to -1, their mean is -1/8 and
their variance 1/4 - 1/64 = 15/64: whitened they are 5/sqrt(15) and -3/sqrt(15).
"""

from __future__ import annotations

import math

import pytest
import torch

from caprl_native.algorithm.aggregation import Denominators
from caprl_native.config.load import load
from caprl_native.config.schema import AlgorithmConfig, Config
from caprl_native.observe.metrics import Sum
from caprl_native.policy import advantages
from caprl_native.policy.advantages import assign_advantages, facts_of
from caprl_native.policy.objective import TokenTables, needs_old_logprobs, objective
from caprl_native.types import Group, Rollout, Sample

# exp(log p of the trainer - log p of the engine) of each token, by caption.
RATIOS = ([1.5], [1.0, 4.0, 0.5], [1.0, 1.1], [0.5, 1.0])
MASK = torch.tensor([[i < len(row) for i in range(3)] for row in RATIOS])
CUTS = ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]])


def recipe(name: str) -> AlgorithmConfig:
    return load(Config, [name]).algorithm


def group(*captions: tuple[float | None, int]) -> Group:
    """Of captions with a reward and a length."""
    rollouts = [
        Rollout([1] * length, [], "stop", "", rewards={}, total=total, utility=total)
        for total, length in captions
    ]
    return Group(Sample("s", (), ()), None, rollouts)


FIRST, SECOND = ((1.0, 1), (0.5, 3)), ((0.25, 2), (0.75, 2))


def assigned(
    monkeypatch: pytest.MonkeyPatch, algorithm: AlgorithmConfig, ranks: list[list[Group]]
) -> list[float]:
    """The advantages of the scored captions, each rank's by itself."""
    everywhere = [[facts_of(g) for g in groups] for groups in ranks]
    for rank, groups in enumerate(ranks):
        monkeypatch.setattr(advantages.dist, "get_rank", lambda rank=rank: rank)
        assign_advantages(groups, everywhere, algorithm, {})
    return [r.advantage for groups in ranks for g in groups for r in g.scored]


def pieces(algorithm: AlgorithmConfig, values: list[float], cut: list[list[int]]) -> tuple:
    """The loss, its metrics and the gradient by token `[4, 3]` of a batch in pieces."""
    logprobs = torch.full((4, 3), -2.0, dtype=torch.float64, requires_grad=True)
    ratios = torch.tensor([row + [1.0] * (3 - len(row)) for row in RATIOS], dtype=torch.float64)
    engine = logprobs.detach() - ratios.log()
    column = torch.tensor(values, dtype=torch.float64)[:, None]
    whole = Denominators.of(MASK)
    loss, metrics = torch.zeros((), dtype=torch.float64), {}
    for rows in cut:
        own = logprobs[rows]
        tables = TokenTables(
            logprobs=own,
            entropy=torch.zeros(1),
            engine=engine[rows],
            before=own.detach(),
            reference=None,
            advantages=column[rows],
            mask=MASK[rows],
        )
        share, found = objective(tables, algorithm, whole)
        loss = loss + share
        sums = {k: float(m.value) for k, m in found.items() if isinstance(m, Sum)}
        metrics = {k: metrics.get(k, 0.0) + v for k, v in sums.items()}
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), metrics, gradient


@pytest.mark.parametrize("cut", CUTS)
def test_caprl_plus_plus(monkeypatch: pytest.MonkeyPatch, cut: list[list[int]]) -> None:
    """By token, A = 1/2: -1/2 min(r, 1.2); A = -1/2: 1/2 max(r, 0.8), at most 3/2.

    -0.6 | (0.5 + 1.5 + 0.4) / 3 = 0.8 | (0.5 + 0.55) / 2 = 0.525 | (-0.25 - 0.5) / 2 = -0.375:
    the mean of the four is 0.0875. The clip leaves a gradient of -A r to the tokens it spares.
    """
    algorithm = recipe("video.toml")
    assert not needs_old_logprobs(algorithm), "no pass for log-probs before the update"
    values = assigned(monkeypatch, algorithm, [[group(*FIRST)], [group(*SECOND)]])
    assert values == pytest.approx([0.5, -0.5, -0.5, 0.5])
    loss, metrics, gradient = pieces(algorithm, values, cut)
    assert loss == pytest.approx(0.0875) == metrics["policy/loss"]
    assert metrics["policy/clip_frac"] == pytest.approx(2 / 8)  # 1.5 from above, 0.5 from below
    want = [[0, 0, 0], [0.5 / 12, 0, 0], [0.5 / 8, 0.55 / 8, 0], [-0.25 / 8, -0.5 / 8, 0]]
    torch.testing.assert_close(gradient, torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize("cut", CUTS)
def test_caprl_1(monkeypatch: pytest.MonkeyPatch, cut: list[list[int]]) -> None:
    """The ratio is 1: each token's gradient is its whitened advantage over the 8 tokens."""
    algorithm = recipe("caprl_image.toml")
    values = assigned(monkeypatch, algorithm, [[group(*FIRST)], [group(*SECOND)]])
    up, down = 5 / math.sqrt(15), -3 / math.sqrt(15)
    assert values == pytest.approx([up, down, down, up])
    loss, metrics, gradient = pieces(algorithm, values, cut)
    assert loss == pytest.approx(0.0, abs=1e-12) and metrics["policy/clip_frac"] == 0
    want = -torch.tensor(values, dtype=torch.float64)[:, None] / 8 * MASK
    torch.testing.assert_close(gradient, want)


def test_whitening_is_over_the_scored_captions_of_all_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has which group; captions without a reward are as if they were not there."""
    algorithm = recipe("caprl_image.toml")
    one = assigned(monkeypatch, algorithm, [[group(*FIRST), group(*SECOND)]])
    two = assigned(monkeypatch, algorithm, [[group(*FIRST)], [group(*SECOND)]])
    lacking = [[group(*FIRST, (None, 7))], [], [group((None, 9), *SECOND)]]
    assert one == two == assigned(monkeypatch, algorithm, lacking)


def test_an_all_equal_batch_has_no_advantages(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = recipe("caprl_image.toml")
    ranks = [[group((0.7, 1), (0.7, 3))], [group((0.1, 2), (0.1, 5))]]
    assert assigned(monkeypatch, algorithm, ranks) == [0.0] * 4


def test_the_factor_of_two_is_whitened_away(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = recipe("caprl_image.toml")
    doubled = [[group(*((2 * total, length) for total, length in g))] for g in (FIRST, SECOND)]
    plain = [[group(*g)] for g in (FIRST, SECOND)]
    assert assigned(monkeypatch, algorithm, doubled) == pytest.approx(
        assigned(monkeypatch, algorithm, plain)
    )
