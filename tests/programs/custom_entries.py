"""Entries of the algorithm's registries that tests name by their import path."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from caprl_native.algorithm.inputs import (
    AdvantageInputs,
    Correction,
    CorrectionInputs,
    LossInputs,
    TokenTerms,
)


def loss(inputs: LossInputs, options: dict[str, Any]) -> TokenTerms:
    return TokenTerms(loss=-options["scale"] * inputs.advantages * inputs.log_ratio.exp())


def advantage(inputs: AdvantageInputs, options: dict[str, Any]) -> Tensor:
    return inputs.groups.finish(options["scale"] * inputs.groups.centred)


def kl(difference: Tensor, options: dict[str, Any]) -> Tensor:
    return options["scale"] * difference.square()


def correction(inputs: CorrectionInputs, options: dict[str, Any]) -> Tensor:
    return inputs.mask.to(inputs.logprobs.dtype) * options["scale"]


def drift(inputs: CorrectionInputs, options: dict[str, Any]) -> Correction:
    """Ones; "clipped" is where the trainer's log-probs are not those before the update."""
    moved = (inputs.logprobs != inputs.old_logprobs) & inputs.mask
    return Correction(inputs.mask.to(inputs.logprobs.dtype), moved)


def of_another_shape(inputs: object, options: dict[str, Any]) -> float:
    return 1.0


def not_finite(inputs: AdvantageInputs, options: dict[str, Any]) -> Tensor:
    return inputs.groups.rewards * float("nan")


def failing(inputs: object, options: dict[str, Any]) -> Tensor:
    raise ZeroDivisionError("no tokens")
