"""From token values to one number, with denominators that belong to the whole batch.

A batch is cut into micro-batches and spread over ranks. Each piece divides by what the whole
batch holds, so that the pieces' losses (and gradients) add up to those of the uncut batch.
A sequence must lie whole in one piece; whole sequences may be distributed at will.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Aggregation = Literal[
    "token-mean",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "dr_grpo",
]


@dataclass(frozen=True)
class Denominators:
    """What a (whole) batch is divided by: response tokens, non-empty sequences, a fixed length.

    `max_tokens` is the constant of the length-normalised aggregations, usually the longest
    response that can be sampled; it is a setting, not a count, and is the same in all pieces.
    """

    tokens: float
    sequences: float
    max_tokens: float = 1.0

    @classmethod
    def of(cls, mask_bt: Tensor, max_tokens: float | None = None) -> Denominators:
        """Counts of one mask `[B, T]`; `max_tokens` defaults to T."""
        lengths = (mask_bt != 0).sum(-1)
        return cls(
            tokens=float(lengths.sum()),
            sequences=float((lengths > 0).sum()),
            max_tokens=float(mask_bt.shape[-1] if max_tokens is None else max_tokens),
        )

    def __add__(self, other: Denominators) -> Denominators:
        """Counts of two disjoint pieces. Raises ValueError if their fixed lengths differ."""
        if self.max_tokens != other.max_tokens:
            raise ValueError(
                "pieces of one batch disagree on max_tokens: "
                f"{self.max_tokens} and {other.max_tokens}"
            )
        return Denominators(
            self.tokens + other.tokens, self.sequences + other.sequences, self.max_tokens
        )


def masked(values_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """`values_bt` with everything outside the mask replaced by 0, NaN and infinities included."""
    return values_bt.where(mask_bt != 0, values_bt.new_zeros(()))


def limited(log_ratio: Tensor, limit: float | None) -> Tensor:
    """`log_ratio` clamped to +-limit nats; the gradient outside is zero. None: unchanged."""
    return log_ratio if limit is None else log_ratio.clamp(-limit, limit)


def sequence_mean(values_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """Mean of each row over its mask, `[B, 1]`; 0 for an empty row."""
    lengths = (mask_bt != 0).sum(-1, keepdim=True).clamp(min=1)
    return masked(values_bt, mask_bt).sum(-1, keepdim=True) / lengths


def aggregate(
    values_bt: Tensor, mask_bt: Tensor, mode: Aggregation, denominators: Denominators
) -> Tensor:
    """This piece's share of the batch's aggregate of `values_bt` `[B, T]`, a scalar.

    - `token-mean`: sum / tokens (DAPO).
    - `seq-mean-token-mean`: sum of each sequence's mean / sequences (GRPO).
    - `seq-mean-token-sum`: sum / sequences.
    - `seq-mean-token-sum-norm`: sum / max_tokens.
    - `dr_grpo`: sum / (sequences * max_tokens) (Dr. GRPO).

    An empty batch gives 0 (with a graph), not NaN. Raises ValueError for an unknown mode.
    """
    if mode == "seq-mean-token-mean":
        total = sequence_mean(values_bt, mask_bt).sum()
    else:
        total = masked(values_bt, mask_bt).sum()
    d = denominators
    divisors = {
        "token-mean": d.tokens,
        "seq-mean-token-mean": d.sequences,
        "seq-mean-token-sum": d.sequences,
        "seq-mean-token-sum-norm": d.max_tokens,
        "dr_grpo": d.sequences * d.max_tokens,
    }
    if mode not in divisors:
        raise ValueError(f"unknown aggregation {mode!r}; valid: {', '.join(get_args(Aggregation))}")
    return total / (divisors[mode] or 1.0)
