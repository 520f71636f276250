"""What a micro-batch adds to the loss and the metrics, as `[algorithm]` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from caprl_native.algorithm.aggregation import Denominators
from caprl_native.algorithm.inputs import CorrectionInputs
from caprl_native.algorithm.objective import corrections_of, kl_loss, policy_loss
from caprl_native.registry import Options


@dataclass(frozen=True)
class TokenTables:
    """A micro-batch's responses, one row each: `[R, T]`, log-probs in nats."""

    logprobs: Tensor  # with a graph
    entropy: Tensor  # of each token, in any shape
    engine: Tensor
    before: Tensor  # the trainer's log-probs before the update
    reference: Tensor | None
    advantages: Tensor  # `[R, 1]`
    mask: Tensor  # bool


def objective(
    tables: TokenTables, algorithm: Any, denominators: Denominators
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of the loss (a scalar with a graph) and of the metrics.

    Shares of micro-batches and ranks add up, but for `mismatch/logprob_abs_max`.
    """
    algorithm = _new_names(algorithm)
    logprobs, mask = tables.logprobs, tables.mask
    old = tables.engine if algorithm.old == "engine" else tables.before
    weights, clipped = _corrections(tables, algorithm.corrections)
    shared = {"aggregation": algorithm.aggregation, "denominators": denominators}
    loss, ratios = policy_loss(
        logprobs, old, tables.advantages, mask, algorithm.loss, weights_bt=weights, **shared
    )
    kl, kl_mean = torch.zeros_like(loss), ratios["kl"]
    if tables.reference is not None:
        kl, distance = kl_loss(logprobs, tables.reference, mask, algorithm.kl, **shared)
        kl_mean = distance["kl_reference"]
    gap = torch.where(mask, (logprobs.detach() - tables.engine).abs(), 0.0)
    loss = loss + algorithm.kl.weight * kl
    tokens = denominators.tokens
    return loss, {
        "policy/loss": loss.detach(),
        "policy/entropy": tables.entropy.sum() / tokens,
        "policy/kl": kl_mean.detach(),
        "policy/clip_frac": ratios["clip_frac"],
        "mismatch/logprob_abs_mean": gap.sum() / tokens,
        "mismatch/logprob_abs_max": gap.max(),
        **{f"mismatch/{name}_clipped_frac": t.sum() / tokens for name, t in clipped.items()},
    }


def _corrections(
    tables: TokenTables, corrections: Mapping[str, Options]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    inputs = CorrectionInputs(
        logprobs=tables.logprobs.detach(),
        old_logprobs=tables.before,
        engine_logprobs=tables.engine,
        advantages=tables.advantages.expand_as(tables.mask),
        mask=tables.mask,
    )
    return corrections_of(inputs, corrections)


def _new_names(old: Any) -> Any:
    """Provisional: the registries' options from the config's keys of today."""
    if hasattr(old, "corrections"):
        return old
    from caprl_native.algorithm.registries import ADVANTAGES, CORRECTIONS, KL, LOSSES

    clip = {"clip_low": old.clip_low, "clip_high": old.clip_high, "dual_clip": old.dual_clip}
    std = {"std": old.std, "eps": old.std_eps} if old.advantage == "grpo" else {}
    tis = {"type": "tis", "cap": old.tis_cap} if old.tis_cap else {"type": "none"}
    return SimpleNamespace(
        loss=LOSSES[old.loss].options(**clip),
        advantage=ADVANTAGES[old.advantage].options(**std),
        kl=KL[old.kl].options(weight=old.kl_weight, reference=old.reference),
        corrections={"tis": CORRECTIONS[tis["type"]].options(**tis)},
        aggregation=old.aggregation,
        old="trainer",
        whiten=False,
    )
