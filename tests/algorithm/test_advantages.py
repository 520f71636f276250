"""Advantages: the golden rows, and the laws that they are instances of."""

import pytest
import torch

from caprl_native.algorithm.advantages.dr_grpo import DrGrpo
from caprl_native.algorithm.advantages.gdpo import Gdpo
from caprl_native.algorithm.advantages.grpo import Grpo
from caprl_native.algorithm.advantages.optimize_threshold import OptimizeThreshold
from caprl_native.algorithm.groups import GroupStatistics, whitened
from caprl_native.algorithm.objective import advantages_of
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options

TABLE = "advantages.json"

# References that give a lone response its raw reward; ours gets 0, and leaves the batch.
RAW_SINGLETONS = {"verl.grpo", "verl.grpo_vectorized", "verl.rloo", "verl.opo"}


def ours(case: dict) -> torch.Tensor:
    """Our advantages `[B]` with the options that stand for the case's reference."""
    kind, batch = case["kind"], case["inputs"]
    group, options = batch["group"], options_of(case)
    if kind == "multi_reward":
        columns, weights = batch["rewards_per_function"], batch["reward_weights"]
        total = torch.nansum(columns * weights, dim=1)
        return advantages_of(
            torch.where(columns.isnan().all(1), torch.nan, total),
            group,
            options,
            terms={str(k): column for k, column in enumerate(columns.T)},
            weights={str(k): weight for k, weight in enumerate(weights.tolist())},
        )
    rewards = batch["rewards"].float() if kind == "f32_zero_std" else batch["rewards"]
    lengths = batch["mask"].sum(1) if "mask" in batch else None
    return advantages_of(rewards, group, options, lengths=lengths)


def options_of(case: dict) -> Options:
    kind, reference, params = case["kind"], case["reference"], case["params"]
    eps = case["epsilon"] or 0.0
    if params.get("aggregation") == "normalize_then_sum":
        return Gdpo(eps=eps)
    plain = params.get("scale_rewards") == "none" or case["epsilon"] is None
    if kind in ("rloo", "opo", "max_rl"):
        return ADVANTAGES[kind].options()
    if kind == "singleton" and "rloo" in reference:
        return ADVANTAGES["rloo"].options()
    if plain or kind in ("grpo_no_std", "whitened"):
        return DrGrpo()
    return Grpo(
        std="population" if reference == "open_instruct" else "unbiased",
        eps=eps,
        min_std=1e-3 if reference == "verl.grpo_vectorized" else 0.0,
        scope="batch" if kind == "grpo_batch_std" else "group",
    )


def test_golden(case: dict) -> None:
    got, output = ours(case).double(), case["output"]
    if "raises" in output:  # the reference refuses lone responses; ours get 0
        assert torch.isfinite(got).all()
        return
    want = case.get("sensible_advantage_per_response", output["advantage_per_response"])
    tolerance = 2e-5 if case["dtype"] == "float32" else 1e-6
    if case["reference"] == "verl.grpo_vectorized":
        tolerance = 1e-4  # float32 inside; the variance of nearly equal rewards loses digits there
    if case["kind"] == "whitened":
        check_whitened(got, case)
        return
    if "mask" in case["inputs"]:  # the references read the value back from the token matrix
        got = torch.where((case["inputs"]["mask"] != 0).any(1), got, 0.0)
    if case["reference"] in RAW_SINGLETONS:
        group = list(case["inputs"]["group"])
        want = torch.where(torch.tensor([group.count(g) == 1 for g in group]), 0.0, want)
    want = want.nan_to_num(nan=0.0)  # OpenRLHF returns NaN for a lone response, we return 0
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def check_whitened(centred: torch.Tensor, case: dict) -> None:
    mask = case["inputs"]["mask"]
    lengths = mask.sum(1)
    got = whitened(centred, lengths)[:, None] * mask
    if case["reference"].startswith("verl"):  # divides by n - 1, ours by n; an epsilon, no floor
        tokens = centred.repeat_interleave(lengths.long())
        theirs = tokens.var() + case["epsilon"]
        got = got * (tokens.var(unbiased=False).clamp(min=1e-8) / theirs).sqrt()
    want = case["output"]["advantage_per_token"]
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


NAMES = [name for name in ADVANTAGES if name != "custom"]


def advantages(kind: str, rewards: torch.Tensor, group: list, **options) -> torch.Tensor:
    """Of one term, which is the total."""
    return advantages_of(
        rewards,
        group,
        ADVANTAGES[kind].options(**options),
        terms={"one": rewards},
        weights={"one": 1.0},
        parts={"memory/count": torch.ones_like(rewards)},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("reward", [0.1, 0.7, -3.1, 1e6, 1e-12])
def test_equal_rewards_give_exactly_zero(kind: str, dtype: torch.dtype, reward: float) -> None:
    for size in range(1, 14):
        rewards = torch.full((size,), reward, dtype=dtype)
        assert (advantages(kind, rewards, [0] * size) == 0).all()
        assert GroupStatistics.of(rewards, [0] * size).flat.all()


def test_groups_are_independent_and_may_be_interleaved() -> None:
    torch.manual_seed(0)
    rewards = torch.rand(12, dtype=torch.float64)
    group = ["a", "b", "c"] * 4
    whole = advantages("grpo", rewards, group)
    for name in "abc":
        rows = [i for i, g in enumerate(group) if g == name]
        torch.testing.assert_close(whole[rows], advantages("grpo", rewards[rows], [name] * 4))
        assert abs(whole[rows].sum()) < 1e-12


def test_a_missing_reward_is_as_if_the_response_were_not_there() -> None:
    rewards = torch.tensor([0.2, torch.nan, 0.9, 0.4, torch.nan, 0.5], dtype=torch.float64)
    group = [0, 0, 0, 0, 1, 1]
    for kind in ("grpo", "rloo", "dr_grpo", "opo", "max_rl"):
        got = advantages(kind, rewards, group)
        torch.testing.assert_close(got[[0, 2, 3]], advantages(kind, rewards[[0, 2, 3]], [0] * 3))
        assert (got[[1, 4, 5]] == 0).all()  # response 5 is alone once 4 is missing


def test_adding_a_constant_changes_nothing() -> None:
    rewards = torch.tensor([0.1, 0.4, 0.9, 0.3], dtype=torch.float64)
    for kind in ("grpo", "rloo", "dr_grpo", "opo", "gdpo"):
        shifted = advantages(kind, rewards + 5, [0] * 4)
        torch.testing.assert_close(advantages(kind, rewards, [0] * 4), shifted)


def test_gdpo_gives_each_term_its_weight_whatever_its_spread() -> None:
    accuracy = torch.tensor([0.2, 0.9, 0.4, 0.5, 0.1, 0.3], dtype=torch.float64)
    length = torch.tensor([1.0, 1.0, 0.999, 0.998, torch.nan, torch.nan], dtype=torch.float64)
    group = [0, 0, 0, 1, 1, 1]

    def of(scale: float, weight: float) -> torch.Tensor:
        terms = {"accuracy": accuracy, "length": scale * length}
        weights = {"accuracy": 1.0, "length": weight}
        return advantages_of(accuracy, group, Gdpo(eps=0.0), terms=terms, weights=weights)

    torch.testing.assert_close(of(1.0, 0.5), of(1000.0, 0.5))
    torch.testing.assert_close(of(1.0, 0.0), advantages("gdpo", accuracy, group, eps=0.0))
    assert (of(1.0, 0.5) - of(1.0, 0.1)).abs().max() > 0.01
    assert of(1.0, 0.5).mean().abs() < 1e-12 and of(1.0, 0.5).std() == pytest.approx(1.0)


def test_whitening_counts_every_token() -> None:
    torch.manual_seed(0)
    values, lengths = torch.randn(9).double(), torch.tensor([3, 1, 0, 7, 2, 2, 5, 1, 4])
    got = whitened(values, lengths)
    tokens = got.repeat_interleave(lengths)
    assert tokens.mean().abs() < 1e-12 and tokens.var(unbiased=False) == pytest.approx(1.0)
    assert got[2] == 0
    tiny = whitened(1e-6 * values, lengths)  # a variance below the floor is not blown up
    torch.testing.assert_close(tiny, got * 1e-6 * values.repeat_interleave(lengths).std(
        unbiased=False) / 1e-4)  # fmt: skip
    assert (whitened(torch.full((3,), -3.1), torch.ones(3)) == 0).all()
    assert (whitened(values, torch.zeros(9)) == 0).all()


def threshold(rewards: list[float], counts: list[float], group: list[int]) -> list[float]:
    return advantages_of(
        torch.tensor(rewards),
        group,
        OptimizeThreshold(eps=0.0, count="mine/count"),
        parts={"mine/count": torch.tensor(counts)},
    ).tolist()


def test_what_is_right_is_not_pushed_down_for_being_less_useful() -> None:
    """0.5 and 0.52 of a group of right answers, where the best has 0.6, have nothing to unlearn."""
    plain = advantages_of(torch.tensor([0.5, 0.52, 0.6]), [0] * 3, Grpo(eps=0.0)).tolist()
    assert plain[0] < plain[1] < 0 < plain[2]
    assert threshold([0.5, 0.52, 0.6], [1, 1, 1], [0] * 3) == [0.0, 0.0, plain[2]]
    # Beside a wrong one; and one whose thoughts have made its reward negative.
    mixed = threshold([0.5, -0.5, 0.55, 0.6], [1, -1, 1, 1], [0] * 4)
    assert mixed[1] < 0 < mixed[0] and min(mixed[2:]) > 0
    long = threshold([-0.5, 0.5, 0.6], [1, 1, 1], [0] * 3)
    assert long[0] < 0 < long[1]


def test_without_anything_right_it_is_grpo() -> None:
    rewards = [-0.5, -1.5, 0.1, -0.5, 0.2]
    counts, group = [-1.0, -1.0, -1.0, -1.0, 1.0], [0, 0, 0, 1, 1]
    plain = advantages_of(torch.tensor(rewards), group, Grpo(eps=0.0)).tolist()
    assert threshold(rewards, counts, group) == plain
    assert threshold([0.1, 0.2], [-1.0, -1.0], [0, 0])[0] < 0
    # Of several things that a response tells: as many right as wrong is enough.
    assert threshold([0.1, 0.2], [0.0, 0.0], [0, 0])[0] == 0.0
    assert threshold([0.1, 0.2, 0.3], [1.0, 2.0, 2.0], [0] * 3)[0] < 0
    missing = threshold([0.5, float("nan"), 0.6], [1.0, float("nan"), 1.0], [0] * 3)
    assert missing[:2] == [0.0, 0.0] and missing[2] > 0


def test_a_part_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 'mine/count'; parts of this batch: none"):
        advantages_of(torch.ones(2), [0, 0], OptimizeThreshold(count="mine/count"))
    with pytest.raises(ValueError, match="parts of this batch: mine/count"):
        threshold([0.5, 0.6], [1.0, float("nan")], [0, 0])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="2 rewards but 3 group ids"):
        advantages("grpo", torch.zeros(2), [0, 0, 0])
    with pytest.raises(KeyError, match="unknown advantage 'gae'; valid: custom, "):
        ADVANTAGES["gae"]
