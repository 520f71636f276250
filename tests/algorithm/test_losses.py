"""Policy losses: the golden rows (loss, gradient, clip shares), and the law of micro-batches."""

import math
from typing import Any, get_args

import pytest
import torch

from caprl_native.algorithm.aggregation import Aggregation, Denominators, aggregate
from caprl_native.algorithm.kl.k3 import K3
from caprl_native.algorithm.losses.ppo import Ppo
from caprl_native.algorithm.losses.reinforce import Reinforce
from caprl_native.algorithm.objective import kl_loss, policy_loss
from caprl_native.algorithm.registries import LOSSES
from caprl_native.registry import Options

TABLE = "policy_losses.json"

NAMES = [name for name in LOSSES if name != "custom"]

KINDS = {
    "verl": {
        "vanilla": "ppo",
        "gspo": "gspo_token",
        "geo_mean": "gmpo",
        "gpg": "reinforce",
    },
    "trl": {
        "grpo": "ppo",
        "bnpo": "ppo",
        "dr_grpo": "ppo",
        "dapo": "ppo",
        "grpo_sequence": "gspo",
    },
    "openrlhf": {},
    "easyr1": {"default": "ppo"},
    "open_instruct": {"dapo": "ppo"},
}
METRICS = {
    "clip_frac": ("pg_clipfrac", "pg_clipfrac_higher", "clipfrac", "clip_ratio"),
    "clip_frac_low": ("clip_ratio/low_mean",),
    "clip_frac_high": ("clip_ratio/high_mean",),
    "clip_frac_dual": ("pg_clipfrac_lower",),
    "kl": ("ppo_kl",),
}


def aggregation_of(library: str, name: str, params: dict) -> str:
    """The aggregation that each reference uses, in our names."""
    if library == "verl":
        # its GSPO and SAPO ignore what was asked for, its GMPO knows one only
        fixed = name in ("gspo", "sapo", "geo_mean")
        return "seq-mean-token-mean" if fixed else params["agg"]
    if library == "trl":
        by_sequence = ("grpo", "grpo_sequence", "sapo")
        return {"dr_grpo": "dr_grpo"}.get(
            name, "seq-mean-token-mean" if name in by_sequence else "token-mean"
        )
    if library == "easyr1":
        return "token-mean" if params["avg"] == "token" else "seq-mean-token-mean"
    return "token-mean" if params.get("token_level", True) else "seq-mean-token-mean"


def denominators_of(library: str, name: str, params: dict, mask: torch.Tensor) -> Denominators:
    """TRL, EasyR1 and verl's GMPO count empty rows as sequences; verl may bring global counts."""
    own = Denominators.of(
        mask, params.get("max_completion_length", params.get("loss_scale_factor"))
    )
    counts_empty = library in ("trl", "easyr1") or name == "geo_mean"
    rows = float(len(mask)) if counts_empty else own.sequences
    return Denominators(
        tokens=params.get("batch_num_tokens", params.get("num_items_in_batch", own.tokens)),
        sequences=params.get("global_batch_size", rows),
        max_tokens=own.max_tokens,
    )


def loss_of(case: dict) -> Options:
    """The loss that stands for the case's reference, with its settings."""
    params = case["params"]
    library, name = case["reference"].split(".")
    kind = KINDS[library].get(name, name)
    low = params.get("clip_low", params.get("epsilon_low"))
    high = params.get("clip_high", params.get("epsilon_high"))
    if kind == "cispo" and library in ("trl", "open_instruct"):
        low = 1.0  # they bound the ratio from above only
        high = high - 1.0 if library == "trl" else high  # TRL's is the absolute bound
    dual = params.get("dual_clip") or 0.0
    given = {
        "clip_low": low,
        "clip_high": high,
        "dual_clip": dual if dual < 1e8 else 0.0,
        "ratio_cap": params.get("delta", 0.0),
        "tau_positive": params.get("tau_pos", 1.0),
        "tau_negative": params.get("tau_neg", 1.05),
    }
    options = LOSSES[kind].options
    return options(**{k: v for k, v in given.items() if k in options.model_fields})


def test_golden(case: dict) -> None:
    batch, params, want = case["inputs"], case["params"], case["output"]
    mask, (library, name) = batch["mask"], case["reference"].split(".")
    shared: dict[str, Any] = {
        "aggregation": aggregation_of(library, name, params),
        "denominators": denominators_of(library, name, params, mask),
    }
    logprobs = batch["log_prob"].clone().requires_grad_()
    loss, metrics = policy_loss(
        logprobs,
        batch["old_log_prob"],
        batch["advantages"],
        mask,
        loss_of(case),
        log_ratio_limit=20.0 if library in ("verl", "openrlhf", "easyr1") else None,
        **shared,
    )
    if "beta" in params:
        kl, _ = kl_loss(logprobs, batch["ref_log_prob"], mask, K3(), limit=None, **shared)
        loss = loss + params["beta"] * kl
    loss = loss * params.get("dp_size", 1)  # verl averages over ranks afterwards, we sum
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(want["loss"], abs=1e-6, rel=1e-6)
    torch.testing.assert_close(gradient, want["grad_log_prob"], atol=1e-6, rtol=1e-6)
    check_metrics(metrics, case, shared["denominators"].tokens / max(mask.sum().item(), 1))


def check_metrics(metrics: dict[str, torch.Tensor], case: dict, scale: float) -> None:
    """Metrics that are not compared: TRL's GSPO counts sequences where we count tokens; verl's GMPO
    counts both signs of the advantage; verl's KL is of the limited log ratio, ours is not, which
    shows in the extreme batch; the clip share of TRL's CISPO has no counterpart."""
    differs = case["reference"] in ("trl.grpo_sequence", "verl.geo_mean", "verl.sapo")
    for name, theirs in METRICS.items():
        for key in theirs:
            limited_kl = name == "kl" and "extreme" in case["batch"] and "verl" in case["reference"]
            if key not in case["output"]["metrics"] or differs or limited_kl:
                continue
            got = metrics[name].item() * scale
            assert got == pytest.approx(case["output"]["metrics"][key], abs=1e-6), key


def random_batch(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return torch.randn(9, 7, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([7, 3, 0, 1, 5, 7, 2, 6, 4])
    mask = (torch.arange(7) < lengths[:, None]) & (noise() < 1.2)
    old = -noise().abs()
    return {
        "logprobs_bt": old + 0.3 * noise(),
        "old_logprobs_bt": old,
        "advantages_bt": noise()[:, :1],
        "mask_bt": mask,
        "weights_bt": noise().abs(),
    }


def settings(kind: str) -> Options:
    """Of a loss, with every option in use."""
    options = LOSSES[kind].options
    return options(dual_clip=3.0) if "dual_clip" in options.model_fields else options()


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
@pytest.mark.parametrize("kind", NAMES)
def test_any_cut_into_micro_batches_gives_the_same_loss(kind: str, aggregation: str) -> None:
    batch = random_batch()
    options = {"options": settings(kind), "aggregation": aggregation}
    logprobs = batch["logprobs_bt"].requires_grad_()
    whole_denominators = Denominators.of(batch["mask_bt"], 11)
    whole, metrics = policy_loss(**batch, **options, denominators=whole_denominators)
    (gradient,) = torch.autograd.grad(whole, logprobs)
    for cut in ([9], [1] * 9, [4, 5], [2, 3, 4], [3, 1, 5]):
        pieces = list(zip(*(tensor.split(cut) for tensor in batch.values()), strict=True))
        pieces = [dict(zip(batch, piece, strict=True)) for piece in pieces]
        total = Denominators(0, 0, 11)
        for piece in pieces:
            total = total + Denominators.of(piece["mask_bt"], 11)
        assert total == whole_denominators
        parts = [policy_loss(**piece, **options, denominators=total) for piece in pieces]
        loss = sum(part[0] for part in parts)
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(torch.autograd.grad(loss, logprobs)[0], gradient)
        for name, value in metrics.items():
            torch.testing.assert_close(sum(part[1][name] for part in parts), value)


@pytest.mark.parametrize("kind", NAMES)
def test_padding_never_matters(kind: str) -> None:
    batch = random_batch(1)
    del batch["weights_bt"]
    clean, metrics = policy_loss(**batch, options=LOSSES[kind].options())
    outside = ~batch["mask_bt"]
    for name in ("logprobs_bt", "old_logprobs_bt"):
        batch[name] = batch[name].masked_fill(outside, torch.nan)
    logprobs = batch["logprobs_bt"].requires_grad_()
    loss, again = policy_loss(**batch, options=LOSSES[kind].options())
    torch.testing.assert_close(loss, clean)
    torch.testing.assert_close(again, metrics)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert gradient.isfinite().all() and (gradient[outside] == 0).all()


@pytest.mark.parametrize("kind", [k for k in NAMES if k != "gmpo"])
def test_on_policy_all_losses_have_the_policy_gradient(kind: str) -> None:
    batch = random_batch(2)
    batch["old_logprobs_bt"] = batch["logprobs_bt"].clone()
    del batch["weights_bt"]
    logprobs = batch["logprobs_bt"].requires_grad_()
    options = {"aggregation": "seq-mean-token-mean"}
    (want,) = torch.autograd.grad(policy_loss(**batch, options=Reinforce(), **options)[0], logprobs)
    loss, metrics = policy_loss(**batch, options=LOSSES[kind].options(), **options)
    torch.testing.assert_close(torch.autograd.grad(loss, logprobs)[0], want)
    assert metrics["clip_frac"] == 0 and metrics["kl"] == 0


@pytest.mark.parametrize(("ratio", "value", "gradient"), [(9.0, 9.0, True), (15.0, 10.0, False)])
def test_the_ratio_of_gspo_token_is_bounded(ratio: float, value: float, gradient: bool) -> None:
    """As in verl: exp(10) at most, where the advantage is negative and nothing clips it."""
    logprobs = torch.full((1, 4), -1.0, dtype=torch.float64, requires_grad=True)
    old, mask = torch.full((1, 4), -1.0 - ratio, dtype=torch.float64), torch.ones(1, 4)
    minus = torch.tensor([[-1.0]], dtype=torch.float64)
    loss, _ = policy_loss(logprobs, old, minus, mask, LOSSES["gspo_token"].options())
    assert loss.item() == pytest.approx(math.exp(value))
    assert bool((torch.autograd.grad(loss, logprobs)[0] != 0).all()) == gradient


def test_zero_advantages_carry_no_gradient() -> None:
    batch = random_batch(3)
    batch["advantages_bt"] = torch.zeros(9, 1, dtype=torch.float64)
    logprobs = batch["logprobs_bt"].requires_grad_()
    for kind in NAMES:
        loss, _ = policy_loss(**batch, options=LOSSES[kind].options())
        assert loss == 0 and (torch.autograd.grad(loss, logprobs)[0] == 0).all()


def test_an_empty_batch_is_zero_and_not_nan() -> None:
    mask = torch.zeros(2, 3)
    values = torch.full((2, 3), torch.nan)
    for mode in get_args(Aggregation):
        assert aggregate(values, mask, mode, Denominators.of(mask)) == 0


def test_wrong_arguments_are_named() -> None:
    batch = random_batch()
    with pytest.raises(KeyError, match="unknown loss 'a2c'; valid: cispo, "):
        LOSSES["a2c"]
    with pytest.raises(ValueError, match="unknown aggregation 'mean'"):
        policy_loss(**batch, options=Reinforce(), aggregation="mean")
    for options in ({"dual_clip": 0.5}, {"ratio_cap": 1.0}):
        with pytest.raises(ValueError, match="expected 0, or more than 1"):
            Ppo(**options)
    with pytest.raises(ValueError, match="disagree on max_tokens"):
        Denominators(1, 1, 8) + Denominators(1, 1, 9)
