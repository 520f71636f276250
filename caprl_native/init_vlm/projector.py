"""A projector that knows nothing: its tensors, drawn from their shapes alone.

A weight of two axes is a linear layer's. `default`: as torch's `nn.Linear` draws it, evenly within
1 / sqrt(inputs), its bias too; `normal`: normal with deviation 0.02, biases 0. Norms get ones, and
zeros as biases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from caprl_native.seeds import seed_of

Init = Literal["default", "normal"]
DEVIATION = 0.02


def drawn(name: str, shapes: Mapping[str, tuple[int, ...]], init: Init, seed: int) -> Tensor:
    """A tensor of the projector in float32; `shapes`: of all of them, by name. A function of its
    name and the seed, whatever else is drawn."""
    module, _, kind = name.rpartition(".")
    shape, weight = shapes[name], shapes.get(f"{module}.weight", ())
    if len(weight) < 2:
        return torch.ones(shape) if kind == "weight" else torch.zeros(shape)
    generator = torch.Generator().manual_seed(seed_of("projector", seed, name))
    if init == "normal":
        if kind != "weight":
            return torch.zeros(shape)
        return torch.empty(shape).normal_(0.0, DEVIATION, generator=generator)
    bound = 1.0 / math.sqrt(math.prod(weight[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
