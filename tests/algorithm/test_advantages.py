"""Advantages: the golden rows, and the laws that they are instances of."""

import pytest
import torch

from caprl_native.algorithm.advantages import (
    combine_rewards,
    flat_groups,
    group_advantages,
    length_penalised,
    nonzero_scale,
    normalised_sum_advantages,
    pass_at_k_advantages,
    whiten,
)

TABLE = "advantages.json"

# References that give a lone response its raw reward; the option reproduces them, the default is 0.
RAW_SINGLETONS = {"verl.grpo", "verl.grpo_vectorized", "verl.rloo", "verl.opo", "verl.gpg"}


def ours(case: dict) -> torch.Tensor:
    """Our advantages `[B]` with the options that stand for the case's reference."""
    kind, reference, params = case["kind"], case["reference"], case["params"]
    batch = case["inputs"]
    group, eps = batch["group"], case["epsilon"] or 0.0
    if kind == "multi_reward":
        columns, weights = batch["rewards_per_function"], batch["reward_weights"]
        if params["aggregation"] == "normalize_then_sum":
            return normalised_sum_advantages(columns, weights, group, eps=eps)
        std = "none" if params["scale_rewards"] == "none" else "unbiased"
        return group_advantages(combine_rewards(columns, weights), group, std=std, eps=eps)
    rewards = batch["rewards"]
    if kind == "f32_zero_std":
        rewards = rewards.float()
    if kind == "passk":
        std = "unbiased" if params.get("norm_by_std", True) else "none"
        return pass_at_k_advantages(rewards, group, std=std, eps=eps)
    singleton = "reward" if reference in RAW_SINGLETONS else "zero"
    if kind == "length_shaped":
        lengths, weight = batch["mask"].sum(1), params["num_output_tokens_weight"]
        return group_advantages(length_penalised(rewards, group, lengths, weight), group, "dr_grpo")
    if kind == "gpg":
        centred = group_advantages(rewards, group, "dr_grpo", singleton=singleton)
        return centred * nonzero_scale(rewards) / params["f_norm"]
    plain = params.get("scale_rewards") == "none" or case["epsilon"] is None
    return group_advantages(
        rewards,
        group,
        estimator_of(kind, reference, plain),
        std="population" if reference == "open_instruct" else "unbiased",
        eps=eps,
        min_variance=1e-6 if reference == "verl.grpo_vectorized" else 0.0,
        std_scope="batch" if kind == "grpo_batch_std" else "group",
        lengths=batch["mask"].sum(1) if "mask" in batch else None,
        singleton=singleton,
    )


def estimator_of(kind: str, reference: str, plain: bool) -> str:
    if kind in ("rloo", "opo", "max_rl"):
        return kind
    if kind == "singleton" and "rloo" in reference:
        return "rloo"
    return "dr_grpo" if plain or kind in ("grpo_no_std", "whitened") else "grpo"


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
    want = want.nan_to_num(nan=0.0)  # OpenRLHF returns NaN for a lone response, we return 0
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def check_whitened(centred: torch.Tensor, case: dict) -> None:
    mask = case["inputs"]["mask"]
    spread = centred[:, None] * mask
    if case["reference"].startswith("verl"):
        got = whiten(spread, mask, eps=case["epsilon"])
    else:
        got = whiten(spread, mask, std="population", eps=0.0, min_variance=case["epsilon"])
    want = case["output"]["advantage_per_token"]
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["grpo", "rloo", "dr_grpo", "max_rl"])
@pytest.mark.parametrize("reward", [0.1, 0.7, -3.1, 1e6, 1e-12])
def test_equal_rewards_give_exactly_zero(kind: str, dtype: torch.dtype, reward: float) -> None:
    for size in range(1, 14):
        rewards = torch.full((size,), reward, dtype=dtype)
        assert (group_advantages(rewards, [0] * size, kind, eps=0.0) == 0).all()
        assert flat_groups(rewards, [0] * size).all()


def test_groups_are_independent_and_may_be_interleaved() -> None:
    torch.manual_seed(0)
    rewards = torch.rand(12, dtype=torch.float64)
    group = ["a", "b", "c"] * 4
    whole = group_advantages(rewards, group)
    for name in "abc":
        rows = [i for i, g in enumerate(group) if g == name]
        torch.testing.assert_close(whole[rows], group_advantages(rewards[rows], [name] * 4))
        assert abs(whole[rows].sum()) < 1e-12


def test_a_missing_reward_is_as_if_the_response_were_not_there() -> None:
    rewards = torch.tensor([0.2, torch.nan, 0.9, 0.4, torch.nan, 0.5])
    group = [0, 0, 0, 0, 1, 1]
    for kind in ("grpo", "rloo", "dr_grpo"):
        got = group_advantages(rewards, group, kind)
        torch.testing.assert_close(
            got[[0, 2, 3]], group_advantages(rewards[[0, 2, 3]], [0] * 3, kind)
        )
        assert (got[[1, 4, 5]] == 0).all()  # response 5 is alone once 4 is missing


def test_adding_a_constant_changes_nothing() -> None:
    rewards = torch.tensor([0.1, 0.4, 0.9, 0.3], dtype=torch.float64)
    for kind in ("grpo", "rloo", "dr_grpo"):
        shifted = group_advantages(rewards + 5, [0] * 4, kind)
        torch.testing.assert_close(group_advantages(rewards, [0] * 4, kind), shifted)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="2 rewards but 3 group ids"):
        group_advantages(torch.zeros(2), [0, 0, 0])
    with pytest.raises(ValueError, match="unknown advantage 'gae'"):
        group_advantages(torch.zeros(2), [0, 0], "gae")
