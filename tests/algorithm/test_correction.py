"""Corrections for the mismatch of trainer and engine: golden rows, and laws."""

import math
from dataclasses import replace

import pytest
import torch

from caprl_native.algorithm.corrections.mask import Mask
from caprl_native.algorithm.corrections.none import NoCorrection
from caprl_native.algorithm.corrections.off_policy_mask import OffPolicyMask
from caprl_native.algorithm.corrections.tis import Tis
from caprl_native.algorithm.inputs import CorrectionInputs
from caprl_native.algorithm.losses.ppo import Ppo
from caprl_native.algorithm.objective import corrections_of, policy_loss
from caprl_native.algorithm.ratios import log_importance_ratio
from caprl_native.algorithm.registries import CORRECTIONS
from caprl_native.registry import Options

TABLE = "rollout_correction.json"

LEVELS = {"token": "token", "seq_sum": "sequence", "seq_mean": "geometric"}


def inputs_of(
    batch: dict, trainer: torch.Tensor, engine: torch.Tensor, limit: float | None = 20.0
) -> CorrectionInputs:
    logprobs, advantages, mask = batch["log_prob"], batch["advantages"], batch["mask"] != 0
    return CorrectionInputs(logprobs, trainer, engine, advantages, mask, limit)


def weights_of(inputs: CorrectionInputs, *corrections: Options) -> torch.Tensor | None:
    return corrections_of(inputs, {str(i): c for i, c in enumerate(corrections)})[0]


def rejection(case: dict, trainer: torch.Tensor, engine: torch.Tensor) -> torch.Tensor:
    """The mask `[B, T]` of verl's comma-separated rejection rules, 1 or 0."""
    params, masks = case["params"], []
    for rule, bounds in zip(params["rs"].split(","), params["threshold"].split(","), strict=True):
        numbers = [float(x) for x in bounds.split("_")]
        low, high = numbers if len(numbers) == 2 else (1 / numbers[0], numbers[0])
        masks.append(Mask(level=LEVELS[rule.removesuffix("_k1")], low=low, high=high))
    return weights_of(inputs_of(case["inputs"], trainer, engine), *masks)


def corrections_for(case: dict) -> list[Options]:
    """Our corrections that stand for the case's reference."""
    params, reference = case["params"], case["reference"]
    if reference.startswith("verl.rollout_is"):
        return [Tis(level=params["level"], cap=params["cap"])]
    if reference == "trl.vllm_is":
        level, mode = params["mode"].split("_")
        low, high = params["clip_min"] or 0.0, params["clip_max"] or math.inf
        if mode == "truncate":
            return [Tis(level=level, low=low, cap=high)]
        return [Tis(level=level, cap=math.inf), Mask(level=level, low=low, high=high)]
    if reference == "trl.off_policy_mask":
        return [OffPolicyMask(high=params["threshold"])]
    if reference == "open_instruct.rho":  # an upper bound of 0: none
        level = "geometric" if params["rho_mask_sequence_level"] else "token"
        clamp = params["rho_clamp_lower_bound"], params["rho_clamp_upper_bound"] or math.inf
        keep = params["rho_mask_lower_bound"], params["rho_mask_upper_bound"] or math.inf
        return [
            Tis(level=level, low=clamp[0], cap=clamp[1]),
            Mask(level=level, low=keep[0], high=keep[1]),
        ]
    if not reference.startswith("openrlhf"):
        return []
    bounds = {"low": params["low"], "high": params["high"]}
    if reference == "openrlhf.tis":
        return [Tis(low=params["low"], cap=params["high"])]
    # Of seq-mask-tis whole sequences are kept; their token weights are free.
    level = "token" if reference == "openrlhf.icepop" else "geometric"
    return [Tis(cap=math.inf), Mask(level=level, **bounds)]


def inverse_bounds(case: dict) -> bool:
    """Rows not followed: verl applies the bounds of k1 to the inverse ratio. For token rules the
    table has the right mask (`sensible_modified_mask`). Nor are the bounds of this sequence rule
    reciprocal: we bound the ratio itself there too, so the test swaps trainer and engine."""
    return (
        "seq_mean_k1" in case["params"].get("rs", "") and "0.9_1.1" in case["params"]["threshold"]
    )


def test_golden(case: dict) -> None:
    batch, output, reference = case["inputs"], case["output"], case["reference"]
    mask, trainer, engine = batch["mask"], batch["old_log_prob"], batch["rollout_log_prob"]
    limit = {"open_instruct.rho": 10.0, "trl.vllm_is": None}.get(reference, 20.0)
    limit = None if reference.startswith("openrlhf") else limit
    weights = weights_of(inputs_of(batch, trainer, engine, limit), *corrections_for(case))
    kept = mask
    if "rs" in case["params"]:
        swapped = (engine, trainer) if inverse_bounds(case) else (trainer, engine)
        kept = rejection(case, *swapped)
        want = case.get("sensible_modified_mask", output.get("modified_mask"))
        torch.testing.assert_close(kept, want)
    if "weights" in output:
        want = (output["weights"] * mask).expand_as(mask)
        torch.testing.assert_close(weights * mask, want, atol=1e-6, rtol=1e-6)
    if "loss" not in output:
        return
    logprobs = batch["log_prob"].clone().requires_grad_()
    loss, _ = policy_loss(
        logprobs,
        trainer,
        batch["advantages"],
        kept,
        Ppo(clip_low=0.2, clip_high=0.28, dual_clip=3.0 if reference.startswith("verl") else 0.0),
        weights_bt=weights,
        log_ratio_limit=20.0 if reference.startswith(("verl", "openrlhf")) else None,
    )
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(output["loss"], abs=1e-6, rel=1e-6)
    torch.testing.assert_close(gradient, output["grad_log_prob"], atol=1e-6, rtol=1e-6)


def random_inputs(seed: int = 0) -> CorrectionInputs:
    generator = torch.Generator().manual_seed(seed)
    engine = -torch.rand(6, 9, generator=generator, dtype=torch.float64)
    trainer = engine + 0.5 * torch.randn(6, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 9, generator=generator) < 0.7
    advantages = torch.randn(6, 1, generator=generator, dtype=torch.float64).expand(6, 9)
    return CorrectionInputs(trainer - 0.1, trainer, engine, advantages, mask)


ALL = [
    *(Tis(level=level, cap=1.1, low=0.9) for level in ("token", "sequence", "geometric")),
    *(Mask(level=level, low=0.9, high=1.1) for level in ("token", "sequence", "geometric")),
    OffPolicyMask(high=0.05),
]
IDS = [f"{o.type} {getattr(o, 'level', '')}" for o in ALL]


@pytest.mark.parametrize("options", ALL, ids=IDS)
def test_without_a_mismatch_nothing_is_corrected(options: Options) -> None:
    inputs = random_inputs()
    same = replace(inputs, logprobs=inputs.engine_logprobs, old_logprobs=inputs.engine_logprobs)
    weights, clipped = corrections_of(same, {"one": options})
    assert torch.equal(weights, inputs.mask.double()) and not clipped["one"].any()


@pytest.mark.parametrize("options", ALL, ids=IDS)
def test_weights_stay_in_their_bounds_and_padding_never_matters(options: Options) -> None:
    inputs = random_inputs()
    weights, clipped = corrections_of(inputs, {"one": options})
    inside, low, high = weights[inputs.mask], *((0.9, 1.1) if options.type == "tis" else (0, 1))
    assert inside.min() >= low and inside.max() <= high and (weights[~inputs.mask] == 0).all()
    assert clipped["one"].any() and not clipped["one"][~inputs.mask].any()
    poisoned = replace(
        inputs, engine_logprobs=inputs.engine_logprobs.masked_fill(~inputs.mask, -torch.inf)
    )
    again, clipped_again = corrections_of(poisoned, {"one": options})
    assert torch.equal(again, weights) and torch.equal(clipped_again["one"], clipped["one"])


@pytest.mark.parametrize("options", ALL, ids=IDS)
def test_rows_are_independent(options: Options) -> None:
    """So that any cut into micro-batches gives the same weights."""
    inputs = random_inputs()
    whole = weights_of(inputs, options)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        piece = CorrectionInputs(*(t[rows] for t in list(vars(inputs).values())[:5]))
        assert torch.equal(weights_of(piece, options), whole[rows])


def test_what_is_clipped_is_above_the_cap_or_left_out() -> None:
    inputs = random_inputs()
    ratio = log_importance_ratio(inputs, "token").exp()
    above = inputs.mask & (ratio > 1.3)
    outside = inputs.mask & ((ratio > 1.3) | (ratio < 0.8))
    corrections = {"a": Tis(cap=1.3), "b": Mask(low=0.8, high=1.3), "c": NoCorrection()}
    weights, clipped = corrections_of(inputs, corrections)
    assert torch.equal(clipped["a"], above) and torch.equal(clipped["b"], outside)
    assert not clipped["c"].any()
    want = torch.where(inputs.mask & ~outside, ratio, 0.0)  # IcePop
    torch.testing.assert_close(weights, want)
    assert weights_of(inputs, NoCorrection()) is None and weights_of(inputs) is None


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(KeyError, match="unknown correction 'drop'"):
        CORRECTIONS["drop"]
    for options in ({"cap": 0.5}, {"low": 2.0}, {"level": "word"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Tis(**options)
