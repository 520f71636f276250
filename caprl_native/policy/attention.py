"""Attention over shared-prefix rows: the prompt to itself, a response to the prompt and to itself.

Scores between different responses are left out, not computed and masked. On CUDA a FlexAttention
block mask does it, in blocks of 128 tokens. Elsewhere the rows are taken apart: one causal call for
the prompts, and one for all responses, each against its prompt's keys and its own.

Registered with transformers under the name `NAME`; `prepare` makes what its calls need.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from caprl_native.policy.packing import PROMPT, MicroBatch

NAME = "shared_prefix"


@dataclass(frozen=True)
class Parts:
    """Where the prompts and the R responses (at most T tokens) of a micro-batch stand."""

    width: int  # of the part of the rows that holds all prompts
    rows: Tensor  # [R] the row of each response
    grid: Tensor  # [R, T] flat positions of their tokens; beyond a response's end, position 0
    places: Tensor  # [S] flat positions of the response tokens
    slots: Tensor  # [S] where each of them stands in the flattened grid
    mask: Tensor  # [R, 1, T, width + T] bool


def prepare(batch: MicroBatch) -> BlockMask | Parts:
    """What the attention calls of a forward pass over `batch` need beside q, k and v."""
    if batch.ids.is_cuda:
        return block_mask(batch)
    count, longest = batch.shape
    width = int(batch.prompts.max())
    of_prompt = torch.arange(width) < batch.prompts[batch.rows][:, None]
    own = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.cat([of_prompt[:, None].expand(-1, longest, -1), own.expand(count, -1, -1)], -1)
    slots = batch.slots[0] * longest + batch.slots[1]
    return Parts(width, batch.rows, batch.table(batch.places), batch.places, slots, mask[:, None])


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
    rows, heads, length, size = query.shape
    groups, width = heads // key.shape[1], prefixes.width
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    of_prompts = scaled_dot_product_attention(
        *(t[:, :, :width] for t in (query, key, value)), is_causal=True, scale=scaling
    )
    own_query, own_key, own_value = (
        t.transpose(1, 2).flatten(0, 1)[prefixes.grid].transpose(1, 2) for t in (query, key, value)
    )
    of_responses = scaled_dot_product_attention(
        own_query,
        torch.cat([key[:, :, :width].index_select(0, prefixes.rows), own_key], 2),
        torch.cat([value[:, :, :width].index_select(0, prefixes.rows), own_value], 2),
        attn_mask=prefixes.mask,
        scale=scaling,
    )
    out = query.new_zeros(rows, length, heads, size)
    out[:, :width] = of_prompts.transpose(1, 2)
    tokens = of_responses.transpose(1, 2).flatten(0, 1).index_select(0, prefixes.slots)
    out.flatten(0, 1).index_copy_(0, prefixes.places, tokens)
    return out, None


AttentionInterface.register(NAME, shared_prefix_attention)
