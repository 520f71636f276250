"""Attention over shared-prefix rows: the prompt to itself, a response to the prompt and to itself.

    o(i) = sum over j of softmax_j(scale * q(i) . k(j)) v(j),
    j running over: j <= i, and j in the prompt or in the segment (prompt, response) of i

which for every response is causal attention over the sequence [prompt | response] alone. Scores
between different responses are left out, not computed and masked: on CUDA by a FlexAttention block
mask, in blocks of 128 tokens; on a CPU as attention_cpu.py says.

Registered with transformers under the name `NAME`; `prepare` makes what its calls need.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from caprl_native.policy.attention_cpu import Parts
from caprl_native.policy.attention_cpu import attend as attend_in_parts
from caprl_native.policy.compiling import compiled
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.packing import PROMPT, MicroBatch

NAME = "shared_prefix"
# What transformers passes where a model's attention is more than softmax(q . k) v.
_CHANGES = ("sliding_window", "softcap", "s_aux", "dropout")


def prepare(batch: MicroBatch) -> BlockMask | Parts:
    """What the attention calls of a forward pass over `batch` need beside q, k and v. Its `parts`
    are there for layers that take no mask."""
    if batch.ids.is_cuda:
        mask = block_mask(batch)
        mask.parts = Parts.of(batch)  # type: ignore[attr-defined]
        return mask
    return Parts.of(batch)


def block_mask(batch: MicroBatch) -> BlockMask:
    """Causal, each response blind to the others; none sees padding, which sees the prompt."""
    segments = batch.segments

    def visible(b: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = segments[b, key] == segments[b, query]
        return (query >= key) & (own | (segments[b, key] == PROMPT))

    rows, length = segments.shape
    make = _compiled(create_block_mask) if segments.is_cuda else create_block_mask
    return make(visible, rows, None, length, length, device=segments.device)


_compiled = functools.cache(compiled)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    prefixes: BlockMask | Parts,
    scaling: float,
    **more: object,
) -> tuple[Tensor, None]:
    """Outputs `[B, L, H, D]` for queries `[B, H, L, D]` and keys and values `[B, K, L, D]`.

    Positions of padding get zeros or anything finite.

    Raises:
        ModelError: the model asks for another attention.
    """
    for name in _CHANGES:
        asked = more.get(name)
        if isinstance(asked, Tensor) or asked:
            raise ModelError(f"the model's attention has a {name}, which is not computed here")
    if isinstance(prefixes, BlockMask):
        attend: Callable[..., Any] = flex_attention
        if query.is_cuda and not torch.compiler.is_compiling():  # else part of a compiled layer
            attend = _compiled(flex_attention)
        shared = key.shape[1] != query.shape[1]
        out = attend(query, key, value, block_mask=prefixes, scale=scaling, enable_gqa=shared)
        return out.transpose(1, 2).contiguous(), None
    return attend_in_parts(query, key, value, prefixes, scaling), None


AttentionInterface.register(NAME, shared_prefix_attention)
