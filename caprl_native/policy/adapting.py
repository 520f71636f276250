"""A policy's adapter: which of its layers get one, what is in it at first, and for a probe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from caprl_native.config.lora import LoraConfig, part_of
from caprl_native.policy.lora import A, Adapter, B, LoraLinear, is_adapter
from caprl_native.policy.model import Policy
from caprl_native.policy.model_check import ModelError
from caprl_native.seeds import seed_of

PROBE_SCALE = 0.17  # s B A x of a probe is about a tenth of x, for weights of common sizes


def add_adapter(policy: Policy, config: LoraConfig) -> None:
    """Gives the model's targets an adapter, and freezes all else.

    Raises:
        ModelError: a target is no linear layer of this model.
    """
    adapter = Adapter(config)
    found: dict[str, list[str]] = {}
    for name, part, module in linear_layers(policy):
        found.setdefault(part, []).append(name)
        if config.covers(part, name):
            adapter.layers[name] = LoraLinear.made_of(module, adapter)
    _check(config, found, policy.family.model_type)
    policy.adapter = adapter
    for name, parameter in policy.hf.named_parameters():
        parameter.requires_grad_(is_adapter(name))


def linear_layers(policy: Policy) -> Iterator[tuple[str, str, nn.Linear]]:
    """(name, part, layer) of what an adapter may be given to: linear layers in the language
    model's layers, in the vision tower's blocks, and in the projector."""
    hf, family = policy.hf, policy.family
    blocks = {
        "language": {m for layer in family.language_layers(hf) for m in layer.modules()},
        "vision": {m for block in family.vision_blocks(hf) for m in block.modules()},
    }
    for name, module in hf.named_modules():
        if type(module) is nn.Linear:
            part = family.part_of(f"{name}.weight")
            if module in blocks.get(part, (module,)):
                yield name, part, module


def _check(config: LoraConfig, found: Mapping[str, list[str]], model_type: str) -> None:
    """Raises ModelError for the first target without a layer."""
    for target in config.targets:
        part = part_of(target)
        one = config.replace(targets=[target])
        if not any(one.covers(part, name) for name in found.get(part, ())):
            known = sorted({name.rpartition(".")[2] for name in found.get(part, ())})
            has = f"; in its {part} there are {', '.join(known)}" if known else ""
            raise ModelError(
                f"policy.lora.targets = {config.targets}: a {model_type} has no linear layer "
                f"{target!r} that can have an adapter{has}"
            )


def first_values(policy: Policy, seed: int) -> dict[str, Tensor]:
    """A and B as training begins, whole, by their parameters' names."""
    values: dict[str, Tensor] = {}
    for name, layer in policy.adapter.layers.items() if policy.adapter else ():
        generator = torch.Generator().manual_seed(seed_of(seed, "lora", name))
        bound = 1.0 / math.sqrt(layer.in_features)
        a = torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator)
        values |= {f"{name}.{A}": a, f"{name}.{B}": torch.zeros(layer.lora_b.shape)}
    return values


@contextmanager
@torch.no_grad()
def probing(policy: Policy) -> Iterator[None]:
    """With fixed noise for every B, which is zero when training begins: an adapter that an engine
    does not apply would not be missed. Afterwards all is as it was, to the bit."""
    layers = policy.adapter.layers if policy.adapter else {}
    saved = {name: _local(layer.lora_b).clone() for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            config = layer.adapter.config
            deviation = PROBE_SCALE / (config.scale * math.sqrt(config.rank))
            generator = torch.Generator().manual_seed(seed_of("probe", name, _shard(layer.lora_b)))
            shape = _local(layer.lora_b).shape
            noise = torch.randn(shape, generator=generator) * deviation
            _local(layer.lora_b).copy_(noise)
        yield
    finally:
        for name, layer in layers.items():
            _local(layer.lora_b).copy_(saved[name])


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.data


def _shard(parameter: Tensor) -> int:
    """Which shard this rank holds; replicas hold the same ones."""
    if not isinstance(parameter, DTensor):
        return 0
    mesh = parameter.device_mesh
    return mesh.get_local_rank(mesh.ndim - 1)
