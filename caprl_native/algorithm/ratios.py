"""The importance ratio between the trainer and the engine that sampled the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from caprl_native.algorithm.aggregation import limited, masked, sequence_mean
from caprl_native.algorithm.inputs import CorrectionInputs

if TYPE_CHECKING:
    from torch import Tensor

RatioLevel = Literal["token", "sequence", "geometric"]


def log_importance_ratio(inputs: CorrectionInputs, level: RatioLevel) -> Tensor:
    """log (p_trainer / p_engine) `[B, T]`, nats, 0 outside the mask.

    Of each token; or the same at each token of a response: of the product of its token ratios
    (`sequence`), or of their geometric mean (`geometric`). The limit clamps the log ratios of
    tokens and of products.
    """
    mask, limit = inputs.mask, inputs.limit
    log_ratio = limited(masked(inputs.old_logprobs - inputs.engine_logprobs, mask), limit)
    if level == "sequence":
        log_ratio = limited(log_ratio.sum(-1, keepdim=True), limit).expand_as(log_ratio)
    elif level == "geometric":
        log_ratio = sequence_mean(log_ratio, mask).expand_as(log_ratio)
    return log_ratio
