"""The trainer's shards -> the engine, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caprl_native.policy.fsdp import DTYPES, full_tensor
from caprl_native.policy.model import Policy
from caprl_native.rollout.engine import Engine


def stream(
    policy: Policy,
    dtype: torch.dtype,
    parts: set[str] | None = None,
    *,
    as_stored: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Whole parameters in the engine's dtype under Hugging Face names; a collective over all ranks.

    `parts`: only these parts of the model. `as_stored`: laid out as checkpoints are, which is what
    vLLM's loader takes, and not as the model in transformers is: experts differ. Shards are cast
    before they are gathered, each tensor is dropped when the next one is asked for, so no second
    model exists. Parts go whole or not at all: an engine that fuses q, k and v would take one of
    them without a word and answer wrongly.
    """
    head, inputs = policy.hf.get_output_embeddings().weight, policy.hf.get_input_embeddings().weight
    for name, parameter in policy.hf.named_parameters():
        if parts is None or policy.family.part_of(name) in parts:
            whole = full_tensor(parameter.detach().to(dtype))
            if as_stored:
                whole = policy.family.as_stored(name, whole)
            yield policy.family.stored_name(name) if as_stored else name, whole
            if parameter is head is inputs:
                # vLLM's CPU build packs a tied LM head apart, which would stay as it was.
                yield "lm_head.weight", whole
            del whole


def trainable_parts(policy: Policy) -> set[str]:
    """The parts with a parameter that can change."""
    named = policy.hf.named_parameters()
    return {policy.family.part_of(name) for name, p in named if p.requires_grad}


def sync(policy: Policy, engine: Engine, *, everything: bool = False) -> None:
    """Gives the engine the policy's weights (those that can have changed, or `everything`).

    The KV cache comes back last: while tensors are gathered, its memory is theirs. The optimizer
    has set gradients to None before, and each `wake` empties torch's cache of what that freed.
    """
    dtype = DTYPES[engine.settings.dtype]
    engine.wake("weights")
    parts = None if everything else trainable_parts(policy)
    engine.load_weights(stream(policy, dtype, parts, as_stored=True))
    engine.wake("kv_cache")
