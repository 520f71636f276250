"""Shared-prefix attention on a CPU: rows split into parts, merged by softmax denominators.

A row is `[prompt | r1 | ... | rk]`. A response's query q attends to two sets of keys, the prompt's
P and its own response's up to itself, R. With scores s(j) = scale * q . k(j) and, for a set A,

    Z_A = log sum over j in A of exp s(j)        o_A = sum over j in A of exp(s(j) - Z_A) v(j)

each as one kernel call returns them, attention over both is

    Z = logaddexp(Z_P, Z_R)        o = exp(Z_P - Z) o_P + exp(Z_R - Z) o_R

Backward, with the whole's o and Z in place of a part's, p(j) = exp(s(j) - Z) are the true
probabilities, and a part's share of the gradients follows from its own keys alone (as in ring
attention, arXiv 2310.01889): for the upstream gradient g of o,

    dv(j) = p(j) g        ds(j) = p(j) (g . v(j) - g . o)        dq, dk(j) = scale * ds(j) (k(j), q)

Shares add up. So no prompt's keys are copied, no mask exists, and scores between different
responses are not computed: each prompt against itself (causal), its responses against the prompt,
and all responses of the micro-batch against themselves (causal, as a table of R responses).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caprl_native.policy.packing import PAD, MicroBatch

Index = tuple[slice, slice, slice]  # of rows, heads and positions


@dataclass(frozen=True)
class Parts:
    """Where the prompts and the R responses (at most T tokens) of a micro-batch stand."""

    spans: list[tuple[int, int]]  # of each row, where its prompt ends, and its last response
    shape: tuple[int, int]  # (R, T)
    places: Tensor  # [S] flat positions of the response tokens
    slots: Tensor  # [S] where each of them stands in a flattened table `[R, T]`

    @classmethod
    def of(cls, batch: MicroBatch) -> Parts:
        ends = (batch.segments != PAD).sum(1)
        slots = batch.slots[0] * batch.shape[1] + batch.slots[1]
        spans = list(zip(batch.prompts.tolist(), ends.tolist(), strict=True))
        return cls(spans, batch.shape, batch.places, slots)

    @property
    def parts(self) -> Parts:
        """Itself: a block mask has one beside it, for layers that take no mask."""
        return self

    def table(self, values: Tensor) -> Tensor:
        """Those `[B, L, ...]` of the response tokens, as `[R, T, ...]`; zeros beyond the ends,
        which take no share of a gradient."""
        flat = values.flatten(0, 1)
        count, longest = self.shape
        table = flat.new_zeros(count * longest, *flat.shape[1:])
        table[self.slots] = flat[self.places]
        return table.unflatten(0, self.shape)


def attend(query: Tensor, key: Tensor, value: Tensor, parts: Parts, scale: float) -> Tensor:
    """Outputs `[B, L, H, D]` for queries `[B, H, L, D]` and keys and values `[B, K, L, D]`."""
    return _SharedPrefix.apply(query, key, value, parts, scale)


class _SharedPrefix(torch.autograd.Function):
    """The module's formulas; `far`: the prompt's share of a response's output, `own`: the other."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: Parts, scale: float
    ) -> Tensor:
        rows, heads, length, size = query.shape
        out = query.new_zeros(rows, length, heads, size)
        logz = out.new_full(  # of no keys
            (rows, length, heads), -math.inf, dtype=torch.promote_types(out.dtype, torch.float32)
        )
        for queries, keys, causal in _rectangles(parts):
            found = _attend(query[queries], key[keys], value[keys], causal, scale)
            out.transpose(1, 2)[queries], logz.transpose(1, 2)[queries] = found
        tables = (_table(query, parts), _table(key, parts), _table(value, parts))
        found = _attend(*tables, causal=True, scale=scale)
        own_out, own_logz = (t.transpose(1, 2).flatten(0, 1)[parts.slots] for t in found)
        flat, flat_logz = out.flatten(0, 1), logz.flatten(0, 1)
        far_out, far_logz = flat[parts.places], flat_logz[parts.places]
        total = torch.logaddexp(far_logz, own_logz)
        far, own = ((part - total).exp()[..., None] for part in (far_logz, own_logz))
        flat[parts.places] = (far_out * far + own_out * own).to(out.dtype)
        flat_logz[parts.places] = total
        ctx.save_for_backward(query, key, value, out, logz)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out, logz = ctx.saved_tensors
        parts, scale = ctx.parts, ctx.scale
        whole = [t.transpose(1, 2) for t in (upstream, out, logz)]
        grads = [t.new_zeros(t.transpose(1, 2).shape).transpose(1, 2) for t in inputs]
        for queries, keys, causal in _rectangles(parts):
            at = (queries, keys, keys)
            given = [t[place] for t, place in zip(inputs, at, strict=True)]
            found = _attend_backward(
                *(t[queries] for t in whole), *given, causal=causal, scale=scale
            )
            for grad, place, share in zip(grads, at, found, strict=True):
                grad[place].add_(share)
        tables = [_table(t, parts) for t in (*whole, *inputs)]
        found = _attend_backward(*tables, causal=True, scale=scale)
        for grad, share in zip(grads, found, strict=True):
            flat = grad.transpose(1, 2).flatten(0, 1)
            flat[parts.places] += share.transpose(1, 2).flatten(0, 1)[parts.slots]
        return *grads, None, None


def _rectangles(parts: Parts) -> Iterator[tuple[Index, Index, bool]]:
    """Queries, keys, whether causal: a prompt against itself, its responses against it; nothing of
    a row without a prompt."""
    for row, (prompt, end) in enumerate(parts.spans):
        if not prompt:
            continue
        keys = (slice(row, row + 1), slice(None), slice(prompt))
        yield keys, keys, True
        yield (slice(row, row + 1), slice(None), slice(prompt, end)), keys, False


def _table(values: Tensor, parts: Parts) -> Tensor:
    """Those `[B, H, L, ...]` of the response tokens, as `[R, H, T, ...]`."""
    return parts.table(values.transpose(1, 2)).transpose(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs and the logs of the softmax's denominators `[B, H, Q]`."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=causal, scale=scale
    )


def _attend_backward(*tensors: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, for the tensors upstream, outputs, logs of the
    softmax's denominators, queries, keys, values."""
    upstream, out, logz, query, key, value = tensors
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        upstream, query, key, value, out, logz, 0.0, causal, scale=scale
    )
