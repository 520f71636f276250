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

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from caprl_native.config.lora import LoraConfig
from caprl_native.seeds import seed_of

A, B = "lora_a", "lora_b"


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
    """A linear layer with an adapter; one of a model becomes it in place (`made_of`).

    `draw`: what the dropout of a pass is drawn from, an integer; a tensor, so that layers of one
    kind share what is compiled.
    """

    adapter: Adapter
    draw: Tensor | None
    lora_a: nn.Parameter
    lora_b: nn.Parameter

    @classmethod
    def made_of(cls, linear: nn.Linear, adapter: Adapter) -> LoraLinear:
        """The layer itself, with A and B, empty."""
        layer: Any = linear
        layer.__class__ = cls
        layer.adapter, layer.draw = adapter, None
        rank, device = adapter.config.rank, layer.weight.device
        layer.lora_a = nn.Parameter(torch.empty(rank, layer.in_features, device=device))
        layer.lora_b = nn.Parameter(torch.empty(layer.out_features, rank, device=device))
        return layer

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


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """W + s B A of whole tensors, computed in float32."""
    return torch.addmm(weight.float(), b.float(), a.float(), alpha=scale).to(dtype)
