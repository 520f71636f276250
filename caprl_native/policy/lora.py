"""Low-rank adapters: W x + s B A x, of which A `[rank, in]` and B `[out, rank]` alone are trained.

After "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685). A begins as torch's
linear layers do, B with zeros. The layer stays the model's own, with two parameters more: names of
weights, and so loading, sharding and exports, are as without an adapter. torchtune's `LoRALinear`
makes a weight of its own and draws its dropout from the global generator, which neither a resumed
run nor a recomputed layer would draw again; peft renames the weights that it wraps.

The product is that of vLLM's kernels: B times s in the compute precision, A x rounded to it, and
the sum of two rounded products. What is frozen is held in the compute precision, which is all that
FSDP would gather of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear

from caprl_native.config.lora import LoraConfig, part_of
from caprl_native.policy.model_check import ModelError
from caprl_native.seeds import seed_of

if TYPE_CHECKING:
    from caprl_native.policy.model import Policy

A, B = "lora_a", "lora_b"
PROBE_SCALE = 0.17  # s B A x of a probe is about a tenth of x, for weights of common sizes


@dataclass
class Adapter:
    """All of a policy's layers that have one, by their names, and whether they use it."""

    config: LoraConfig
    layers: dict[str, LoraLinear] = field(default_factory=dict)
    is_on: bool = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model without its adapter: what it was before training."""
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = True

    def draw_from(self, *key: int, device: torch.device) -> None:
        """Dropout of the passes to come follows from this key alone, however often they run."""
        if self.config.dropout:
            draws = torch.arange(len(self.layers), device=device) + seed_of("dropout", *key)
            for layer, draw in zip(self.layers.values(), draws, strict=True):
                layer.draw = draw

    def of(self, weight: str) -> LoraLinear | None:
        """The layer whose weight this parameter is, where it has an adapter."""
        return self.layers.get(weight.removesuffix(".weight"))


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; one of a model becomes it in place (see `add_adapter`).

    `draw`: what the dropout of a pass is drawn from, an integer; a tensor, so that layers of one
    kind share what is compiled.
    """

    adapter: Adapter
    draw: Tensor | None
    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def adapt(self, adapter: Adapter) -> None:
        """Makes its A and B, empty."""
        self.adapter, self.draw = adapter, None
        rank, device = adapter.config.rank, self.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, device=device))
        self.lora_b = nn.Parameter(torch.empty(self.out_features, rank, device=device))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        out = super().forward(input)
        if not self.adapter.is_on:
            return out
        low = linear(self._dropped(input), self.lora_a)
        return out + linear(low, self.lora_b * self.adapter.config.scale)

    def _dropped(self, x: Tensor) -> Tensor:
        share = self.adapter.config.dropout
        if self.draw is None or not share or not torch.is_grad_enabled():
            return x
        return torch.where(kept(x, self.draw, share), x / (1.0 - share), 0.0)


def kept(x: Tensor, draw: Tensor, share: float) -> Tensor:
    """Which elements of x stay when this share is dropped: a hash of each one's place and `draw`.

    Arithmetic, not a generator: a layer that is recomputed in the backward pass drops the same.
    """
    bits = torch.arange(x.numel(), device=x.device).view(x.shape) + draw * 0x632BE59BD9B4E019
    for multiplier in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):  # of splitmix64, as signed
        bits = (bits ^ ((bits >> 30) & (2**34 - 1))) * multiplier
    return ((bits >> 27) & (2**24 - 1)) >= int(share * 2**24)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return name.endswith((f".{A}", f".{B}"))


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
            layer: Any = module
            layer.__class__ = LoraLinear
            layer.adapt(adapter)
            adapter.layers[name] = layer
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


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """W + s B A of whole tensors, computed in float32."""
    return torch.addmm(weight.float(), b.float(), a.float(), alpha=scale).to(dtype)


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
