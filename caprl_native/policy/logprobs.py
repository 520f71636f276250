"""Log-probs of given tokens from hidden states; the logits of all of them never exist at once.

With logits z(v) = h . w(v) / temperature of token t, log-partition Z = log sum_v exp z(v) and
p(v) = exp(z(v) - Z):

    log p(t) = z(t) - Z        H = Z - sum_v p(v) z(v)        d log p(t) / d z(v) = [v = t] - p(v)

Both passes go over tiles of tokens by vocabulary entries. The forward pass keeps running sums
relative to the largest logit m so far: mass = sum exp(z - m), surplus = sum (z - m) exp(z - m), so
that Z = m + log mass and H = log mass - surplus / mass. When a tile raises m by -shift, old sums
move: surplus <- (surplus + mass * shift) exp(shift), mass <- mass exp(shift). The backward pass
computes each tile's logits again from the saved hidden states and turns them into gradients in
place: for an upstream gradient g and s = g / temperature,

    dh = sum_v s ([v = t] - p(v)) w(v)        dw(v) = sum over tokens of s ([v = t] - p(v)) h

so the memory for logits is that of a few tiles whatever the numbers of tokens and entries are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = 8192  # entries of the vocabulary in one tile
FLOOR = -1e30  # stands for -inf where 0 times it is to be 0


class TokenScores(NamedTuple):
    """What is known of T tokens, each `[T]`; nats, float32."""

    logprobs: Tensor  # differentiable
    entropy: Tensor  # of the distribution that the token is drawn from; not differentiable
    is_top: Tensor  # bool: no other token is likelier


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    banned: Sequence[int],
    temperature: float = 1.0,
    chunk: int = 1024,
    tile: int = TILE,
) -> TokenScores:
    """Log-probs and entropies of tokens under `softmax(hidden @ weight.T / temperature)`.

    Args:
        hidden: `[T, D]` final hidden states that predict the tokens.
        weight: `[V, D]` of the LM head.
        ids: `[T]`.
        banned: ids of tokens whose probability is zero by decree (media pad tokens).
        temperature: that of the sampling, so that the numbers speak of the same distribution.
        chunk: tokens in one tile.
        tile: vocabulary entries in one tile.
    """
    found = _TokenLogprobs.apply(hidden, weight, ids, banned, temperature, chunk, tile)
    return TokenScores(*found)


class _TokenLogprobs(torch.autograd.Function):
    """The module's formulas; saves hidden states, weight, tokens and Z `[T]`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        ids: Tensor,
        banned: Sequence[int],
        temperature: float,
        chunk: int,
        tile: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logz = hidden.new_empty(len(ids), dtype=torch.float32)
        chosen, entropy = torch.empty_like(logz), torch.empty_like(logz)
        is_top = torch.empty_like(ids, dtype=torch.bool)
        for rows in _pieces(len(ids), chunk):
            chosen[rows], logz[rows], entropy[rows], is_top[rows] = _scan(
                hidden[rows], weight, ids[rows], banned, temperature, tile
            )
        ctx.save_for_backward(hidden, weight, ids, logz)
        ctx.settings = banned, temperature, chunk, tile
        ctx.mark_non_differentiable(entropy, is_top)
        return chosen - logz, entropy, is_top

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, ids, logz = ctx.saved_tensors
        banned, temperature, chunk, tile = ctx.settings
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        # Sums over tiles are kept in float32: in bfloat16 small terms would be lost.
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if to_hidden else None
        grad_weight = torch.zeros_like(weight) if to_weight else None
        for columns in _pieces(len(weight), tile):
            part = weight[columns]
            summed = torch.zeros_like(part, dtype=torch.float32) if to_weight else None
            for rows in _pieces(len(ids), chunk):
                logits = _logits(hidden[rows], part, columns, banned, temperature)
                scale = upstream[rows, None].float() / temperature
                grads = logits.sub_(logz[rows, None]).exp_().mul_(-scale)
                _add_at(grads, ids[rows] - columns.start, scale)
                grads = grads.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] += _product(grads, part)
                if summed is not None:
                    summed += _product(grads.T, hidden[rows])
            if grad_weight is not None and summed is not None:
                grad_weight[columns] = summed
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def _scan(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    banned: Sequence[int],
    temperature: float,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z(t), Z, H, and whether z(t) is the largest logit: `[T]` each.

    One pass over the tiles. All sums are relative to the largest logit so far, and are moved when a
    larger one turns up; the entropy would otherwise be a small difference of large numbers.
    """
    top = hidden.new_full((len(ids),), FLOOR, dtype=torch.float32)
    chosen, mass, surplus = top.clone(), torch.zeros_like(top), torch.zeros_like(top)
    for columns in _pieces(len(weight), tile):
        logits = _logits(hidden, weight[columns], columns, banned, temperature)
        place = ids - columns.start
        inside = (place >= 0) & (place < logits.shape[1])
        found = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        chosen = torch.where(inside, found, chosen)
        largest = torch.maximum(top, logits.amax(1))
        shift = top - largest
        above = logits.sub_(largest[:, None]).clamp_(min=FLOOR)
        p = torch.exp(above)
        surplus = (surplus + mass * shift) * shift.exp() + p.mul(above).sum(1)
        mass = mass * shift.exp() + p.sum(1)
        top = largest
    return chosen, top + mass.log(), mass.log() - surplus / mass, chosen >= top


def _logits(
    hidden: Tensor, part: Tensor, columns: slice, banned: Sequence[int], temperature: float
) -> Tensor:
    """The logits `[T, columns]` of one tile, float32."""
    logits = _product(hidden, part.T).div_(temperature)
    for token in banned:
        if columns.start <= token < columns.stop:
            logits[:, token - columns.start] = -torch.inf
    return logits


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in float32, of two matrices of one precision.

    A logit that is rounded to bfloat16 is off by up to 0.06 nats at 16; the engine's head does not
    round it either (`rollout/engine.py`). No GPU has run the CUDA branch; a CPU lacks its operator.
    """
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _add_at(grads: Tensor, place: Tensor, values: Tensor) -> None:
    """Adds each row's value at its place, where that is inside the tile."""
    inside = (place >= 0) & (place < grads.shape[1])
    kept = torch.where(inside[:, None], values, 0.0)
    grads.scatter_add_(1, place.clamp(0, grads.shape[1] - 1)[:, None], kept)


def _pieces(total: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, total)) for i in range(0, total, size))
