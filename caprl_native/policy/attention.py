"""Attention over shared-prefix rows: the prompt to itself, a response to the prompt and to itself.

Scores between different responses are left out, not computed and masked. On CUDA a FlexAttention
block mask does it, in blocks of 128 tokens. On a CPU the rows are taken apart: each prompt against
itself, its responses against the prompt, and all responses of the micro-batch against themselves.

Registered with transformers under the name `NAME`; `prepare` makes what its calls need.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from caprl_native.policy.packing import PAD, PROMPT, MicroBatch

NAME = "shared_prefix"
Index = tuple[slice, slice, slice]  # of rows, heads and positions


@dataclass(frozen=True)
class Parts:
    """Where the prompts and the R responses (at most T tokens) of a micro-batch stand."""

    spans: list[tuple[int, int]]  # of each row, where its prompt ends, and its last response
    shape: tuple[int, int]  # (R, T)
    places: Tensor  # [S] flat positions of the response tokens
    slots: Tensor  # [S] where each of them stands in a flattened table `[R, T]`


def prepare(batch: MicroBatch) -> BlockMask | Parts:
    """What the attention calls of a forward pass over `batch` need beside q, k and v."""
    if batch.ids.is_cuda:
        return block_mask(batch)
    ends = (batch.segments != PAD).sum(1)
    slots = batch.slots[0] * batch.shape[1] + batch.slots[1]
    spans = list(zip(batch.prompts.tolist(), ends.tolist(), strict=True))
    return Parts(spans, batch.shape, batch.places, slots)


def block_mask(batch: MicroBatch) -> BlockMask:
    """Causal, each response blind to the others; none sees padding, which sees the prompt."""
    segments = batch.segments

    def visible(b: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = segments[b, key] == segments[b, query]
        return (query >= key) & (own | (segments[b, key] == PROMPT))

    rows, length = segments.shape
    make = _compiled(create_block_mask) if segments.is_cuda else create_block_mask
    return make(visible, rows, None, length, length, device=segments.device)


@functools.cache
def _compiled(function: Callable) -> Callable:
    """Compiled for any sizes. Running out of recompilations is an error: the fallback would hold
    all scores, 34 GB at 16,384 positions and 32 heads."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=True)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    prefixes: BlockMask | Parts,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Outputs `[B, L, H, D]` for queries `[B, H, L, D]` and keys and values `[B, K, L, D]`.

    Positions of padding get zeros or anything finite.
    """
    if isinstance(prefixes, BlockMask):
        attend = _compiled(flex_attention) if query.is_cuda else flex_attention
        shared = key.shape[1] != query.shape[1]
        out = attend(query, key, value, block_mask=prefixes, scale=scaling, enable_gqa=shared)
        return out.transpose(1, 2).contiguous(), None
    return _SharedPrefix.apply(query, key, value, prefixes, scaling), None


class _SharedPrefix(torch.autograd.Function):
    """Softmax attention in parts, put together by the denominators of their softmaxes.

    With the whole's outputs and denominators, the backward pass of a part gives its share of the
    gradients (as in ring attention, arXiv 2310.01889). No prompt's keys are copied, no mask exists.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: Parts, scale: float
    ) -> Tensor:
        rows, heads, length, size = query.shape
        out = query.new_zeros(rows, length, heads, size)
        logz = out.new_zeros(
            rows, length, heads, dtype=torch.promote_types(out.dtype, torch.float32)
        )
        for queries, keys, causal in _rectangles(parts):
            found = _attend(query[queries], key[keys], value[keys], causal, scale)
            out.transpose(1, 2)[queries], logz.transpose(1, 2)[queries] = found
        found = _attend(*(_table(t, parts) for t in (query, key, value)), True, scale)
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
            found = _attend_backward(*(t[queries] for t in whole), *given, causal, scale)
            for grad, place, share in zip(grads, at, found, strict=True):
                grad[place].add_(share)
        found = _attend_backward(*(_table(t, parts) for t in (*whole, *inputs)), True, scale)
        for grad, share in zip(grads, found, strict=True):
            flat = grad.transpose(1, 2).flatten(0, 1)
            flat[parts.places] += share.transpose(1, 2).flatten(0, 1)[parts.slots]
        return *grads, None, None


def _rectangles(parts: Parts) -> Iterator[tuple[Index, Index, bool]]:
    """Queries, keys, whether causal: a prompt against itself, its responses against it."""
    for row, (prompt, end) in enumerate(parts.spans):
        keys = (slice(row, row + 1), slice(None), slice(prompt))
        yield keys, keys, True
        yield (slice(row, row + 1), slice(None), slice(prompt, end)), keys, False


def _table(values: Tensor, parts: Parts) -> Tensor:
    """Those `[B, H, L, ...]` of the response tokens, as `[R, H, T, ...]`; zeros beyond the ends,
    which take no share of a gradient."""
    flat = values.transpose(1, 2).flatten(0, 1)
    count, longest = parts.shape
    table = flat.new_zeros(count * longest, *flat.shape[1:])
    table[parts.slots] = flat[parts.places]
    return table.unflatten(0, parts.shape).transpose(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs and the logs of the softmax's denominators `[B, H, Q]`."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=causal, scale=scale
    )


def _attend_backward(
    upstream: Tensor,
    out: Tensor,
    logz: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        upstream, query, key, value, out, logz, 0.0, causal, scale=scale
    )


AttentionInterface.register(NAME, shared_prefix_attention)
