"""The trainer's shards -> the engine, one tensor at a time; or its adapter alone, if it has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from caprl_native.policy.fsdp import DTYPES, full_tensor
from caprl_native.policy.lora import is_adapter, merged
from caprl_native.policy.model import Policy
from caprl_native.policy.peft_format import peft_config, peft_tensors
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
    them without a word and answer wrongly. Weights with an adapter have it in them.
    """
    head, inputs = policy.hf.get_output_embeddings().weight, policy.hf.get_input_embeddings().weight
    for name, parameter in policy.hf.named_parameters():
        if is_adapter(name):
            continue
        if parts is None or policy.family.part_of(name) in parts:
            whole = full_tensor(parameter.detach().to(dtype))
            layer = policy.adapter.of(name) if policy.adapter else None
            if layer is not None:
                a, b = (full_tensor(t.detach()) for t in (layer.lora_a, layer.lora_b))
                whole = merged(whole, a, b, layer.adapter.config.scale, dtype)
            if as_stored:
                whole = policy.family.as_stored(name, whole)
            yield policy.family.stored_name(name) if as_stored else name, whole
            if parameter is head is inputs:
                # vLLM's CPU build packs a tied LM head apart, which would stay as it was.
                yield "lm_head.weight", whole
            del whole


def adapter_tensors(policy: Policy, dtype: torch.dtype) -> dict[str, Tensor]:
    """Whole A and B of each layer, by their parameters' Hugging Face names (a collective)."""
    named = policy.hf.named_parameters()
    return {n: full_tensor(p.detach().to(dtype)) for n, p in named if is_adapter(n)}


def trainable_parts(policy: Policy) -> set[str]:
    """The parts with a parameter that can change."""
    named = policy.hf.named_parameters()
    return {policy.family.part_of(name) for name, p in named if p.requires_grad}


def sync(policy: Policy, engine: Engine, *, everything: bool = False) -> int:
    """Gives the engine the policy's weights (those that can have changed, or `everything`); returns
    how many bytes. An engine with room for the policy's adapter is given that alone: it has read
    the rest from the policy's directory. Another one gets weights with the adapter in them.

    The KV cache comes back last: while tensors are gathered, its memory is theirs. The optimizer
    has set gradients to None before, and each `wake` empties torch's cache of what that freed.
    """
    dtype = DTYPES[engine.settings.dtype]
    engine.wake("weights")
    counter = Counter[str]()
    if policy.adapter is not None and engine.settings.adapter is not None:
        tensors = adapter_tensors(policy, dtype)
        settings = peft_config(policy.adapter.config, policy.adapter.layers)
        engine.load_adapter(settings, peft_tensors(tensors))
        counter["bytes"] += sum(tensor.nbytes for tensor in tensors.values())
    else:
        parts = None if everything else trainable_parts(policy)
        named = stream(policy, dtype, parts, as_stored=True)
        engine.load_weights(_counted(named, counter))
    engine.wake("kv_cache")
    return counter["bytes"]


def _counted(
    named: Iterator[tuple[str, Tensor]], counter: Counter[str]
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in named:
        counter["bytes"] += tensor.nbytes
        yield name, tensor
