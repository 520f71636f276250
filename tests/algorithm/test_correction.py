"""Corrections for the mismatch of trainer and engine: golden rows, and laws."""

import math

import pytest
import torch

from caprl_native.algorithm.correction import (
    Mismatch,
    divergence_keep,
    importance_ratio,
    importance_weights,
    normalise_weights,
    off_policy_keep,
    probability_keep,
    range_keep,
    total_variation_keep,
)
from caprl_native.algorithm.kl import kl_loss
from caprl_native.algorithm.losses import policy_loss

TABLE = "rollout_correction.json"

LEVELS = {"token": "token", "seq_sum": "sequence", "seq_mean": "geometric"}


def rejection(case: dict, trainer: torch.Tensor, engine: torch.Tensor) -> torch.Tensor:
    """The mask of verl's comma-separated rejection rules."""
    mask, params = case["inputs"]["mask"], case["params"]
    keep = mask != 0
    for rule, bounds in zip(params["rs"].split(","), params["threshold"].split(","), strict=True):
        over, estimator = rule.rsplit("_", 1)
        numbers = [float(x) for x in bounds.split("_")]
        if estimator == "k1":
            low, high = numbers if len(numbers) == 2 else (1 / numbers[0], numbers[0])
            keep &= range_keep(trainer, engine, mask, level=LEVELS[over], low=low, high=high)
        else:
            options = {"estimator": estimator, "over": over.removeprefix("seq_")}
            keep &= divergence_keep(trainer, engine, mask, high=numbers[0], **options)
    return keep


def weights_of(case: dict) -> torch.Tensor | None:
    """Our weights `[B, T]` with the options that stand for the case's reference."""
    params, reference, batch = case["params"], case["reference"], case["inputs"]
    now, advantages, mask = batch["log_prob"], batch["advantages"], batch["mask"]
    both = (batch["old_log_prob"], batch["rollout_log_prob"], mask)
    if reference.startswith("verl.rollout_is"):
        weights = importance_weights(*both, level=params["level"], high=params["cap"])
        normalise = params.get("batch_normalize", False)
        return normalise_weights(weights, mask, params["level"]) if normalise else weights
    if reference == "trl.vllm_is":
        level, mode = params["mode"].split("_")
        bounds = {"low": params["clip_min"] or 0.0, "high": params["clip_max"] or math.inf}
        return importance_weights(*both, level=level, mode=mode, limit=None, **bounds)
    if reference == "trl.off_policy_mask":
        engine = batch["rollout_log_prob"]
        return off_policy_keep(now, engine, advantages, mask, params["threshold"]).double()
    if reference == "open_instruct.rho":
        return rho(params, both, advantages)
    if reference.startswith("prime_rl"):
        low = params.get("ipo_threshold", params.get("dppo_mask_low"))
        high = params.get("ipo_threshold", params.get("dppo_mask_high"))
        signed = None if "ipo" in reference else advantages
        engine = batch["rollout_log_prob"]
        keep = probability_keep(now, engine, mask, low=low, high=high, advantages_bt=signed)
        return keep * params["adv_tau"]
    if not reference.startswith("openrlhf"):
        return None
    bounds = {"low": params["low"], "high": params["high"], "limit": None}
    if (
        reference == "openrlhf.seq-mask-tis"
    ):  # whole sequences are kept; their token weights are free
        return importance_ratio(*both, limit=None) * range_keep(*both, level="geometric", **bounds)
    mode = "mask" if reference == "openrlhf.icepop" else "truncate"
    return importance_weights(*both, mode=mode, **bounds)


def rho(params: dict, both: tuple[torch.Tensor, ...], advantages: torch.Tensor) -> torch.Tensor:
    """open-instruct: a clamped ratio times a mask; upper bound 0: none; log ratios within +-10."""
    level = "geometric" if params["rho_mask_sequence_level"] else "token"
    weights = importance_weights(
        *both,
        level=level,
        low=params["rho_clamp_lower_bound"],
        high=params["rho_clamp_upper_bound"] or math.inf,
        limit=10.0,
    )
    bounds = {
        "low": params["rho_mask_lower_bound"],
        "high": params["rho_mask_upper_bound"] or math.inf,
    }
    if params["rho_mask_tv_divergence"]:
        trainer, engine, mask = both
        return weights * total_variation_keep(trainer, engine, advantages, mask, **bounds)
    return weights * range_keep(*both, level=level, limit=10.0, **bounds)


def loss_options(reference: str) -> dict:
    dual = 3.0 if reference.startswith("verl") else None
    limit = 20.0 if reference.startswith(("verl", "openrlhf")) else None
    bounds = (math.inf, math.inf) if reference.startswith("prime_rl") else (0.2, 0.28)
    return {
        "clip_low": bounds[0],
        "clip_high": bounds[1],
        "dual_clip": dual,
        "log_ratio_limit": limit,
    }


def inverse_bounds(case: dict) -> bool:
    """Rows not followed: verl applies the bounds of k1 to the inverse ratio. For token rules the
    table has the right mask (`sensible_modified_mask`). Nor are the bounds of this sequence rule
    reciprocal: we bound the ratio itself there too, so the test swaps trainer and engine."""
    return (
        "seq_mean_k1" in case["params"].get("rs", "") and "0.9_1.1" in case["params"]["threshold"]
    )


def test_golden(case: dict) -> None:
    batch, output, reference = case["inputs"], case["output"], case["reference"]
    mask, engine = batch["mask"], batch["rollout_log_prob"]
    kept = mask
    if "rs" in case["params"]:
        trainer = batch["old_log_prob"]
        if inverse_bounds(case):  # swapping the two gives the reference's reading
            trainer, engine = engine, trainer
        kept = rejection(case, trainer, engine).double()
        want = case.get("sensible_modified_mask", output.get("modified_mask"))
        torch.testing.assert_close(kept, want)
    weights = weights_of(case)
    if "weights" in output:
        want = (output["weights"] * mask).expand_as(mask)
        torch.testing.assert_close(weights * mask, want, atol=1e-6, rtol=1e-6)
    if "loss" not in output:
        return
    logprobs = batch["log_prob"].clone().requires_grad_()
    old = engine if reference.startswith("prime_rl") else batch["old_log_prob"]
    options = loss_options(reference)
    loss, _ = policy_loss(logprobs, old, batch["advantages"], kept, weights_bt=weights, **options)
    if case["params"].get("kl_tau"):  # prime-rl's penalty is twice k2
        penalty, _ = kl_loss(logprobs, engine, mask, kind="k2", limit=None)
        loss = loss + 2 * case["params"]["kl_tau"] * penalty
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(output["loss"], abs=1e-6, rel=1e-6)
    torch.testing.assert_close(gradient, output["grad_log_prob"], atol=1e-6, rtol=1e-6)


def random_pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    engine = -torch.rand(6, 9, generator=generator, dtype=torch.float64)
    trainer = engine + 0.5 * torch.randn(6, 9, generator=generator, dtype=torch.float64)
    return trainer, engine, torch.rand(6, 9, generator=generator) < 0.7


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_without_a_mismatch_nothing_is_corrected(level: str) -> None:
    trainer, _, mask = random_pair()
    for mode in ("truncate", "mask"):
        weights = importance_weights(trainer, trainer, mask, level=level, mode=mode)
        assert torch.equal(weights, mask.double())
    assert torch.equal(range_keep(trainer, trainer, mask, level=level, low=0.9, high=1.1), mask)


def test_bounds_hold_and_normalised_weights_have_mean_one() -> None:
    trainer, engine, mask = random_pair()
    for level in ("token", "sequence", "geometric"):
        weights = importance_weights(trainer, engine, mask, level=level, low=0.5, high=1.5)
        assert weights[mask].min() >= 0.5 and weights.max() <= 1.5 and (weights[~mask] == 0).all()
        masked = importance_weights(
            trainer, engine, mask, level=level, mode="mask", low=0.5, high=1.5
        )
        keep = range_keep(trainer, engine, mask, level=level, low=0.5, high=1.5)
        assert torch.equal(masked != 0, keep)
    scaled = normalise_weights(importance_weights(trainer, engine, mask), mask)
    assert scaled[mask].mean().item() == pytest.approx(1.0)


def test_padding_never_matters() -> None:
    trainer, engine, mask = random_pair()
    poisoned = engine.masked_fill(~mask, -torch.inf)
    for level in ("token", "sequence", "geometric"):
        torch.testing.assert_close(
            importance_weights(trainer, poisoned, mask, level=level),
            importance_weights(trainer, engine, mask, level=level),
        )


def test_the_mismatch_adds_up() -> None:
    trainer, engine, mask = random_pair()
    whole = Mismatch.of(trainer, engine, mask, cap=1.3)
    parts = Mismatch()
    for rows in (slice(0, 2), slice(2, 3), slice(3, 6)):
        parts = parts + Mismatch.of(trainer[rows], engine[rows], mask[rows], cap=1.3)
    assert parts.metrics == pytest.approx(whole.metrics)
    distance = (trainer - engine)[mask]
    assert whole.metrics == pytest.approx(
        {
            "logprob_abs_mean": distance.abs().mean().item(),
            "logprob_abs_max": distance.abs().max().item(),
            "tis_clipped_frac": (distance.exp() > 1.3).double().mean().item(),
        }
    )
    assert Mismatch.of(trainer, engine, mask, cap=0.0).clipped == 0
    assert Mismatch().metrics["logprob_abs_mean"] == 0.0


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown ratio level 'word'"):
        importance_ratio(*random_pair(), level="word")
    with pytest.raises(ValueError, match="unknown correction mode 'drop'"):
        importance_weights(*random_pair(), mode="drop")
    with pytest.raises(ValueError, match="unknown divergence 'k1'"):
        divergence_keep(*random_pair(), high=1.0, estimator="k1")
