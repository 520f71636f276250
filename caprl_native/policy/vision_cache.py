"""A frozen vision tower looks at a picture once per step, whatever the number of passes.

Its blocks' outputs are recorded the first time and replayed from then on. What is trained behind
them (the projector) runs in every pass, with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

States = dict[int, Tensor]  # outputs of vision blocks, `[N, C]` for N patches, by block


@contextmanager
def recorded(blocks: nn.ModuleList, wanted: Sequence[int]) -> Iterator[States]:
    """What the wanted blocks give while the context is open, on the CPU."""
    states: States = {}

    def keep(number: int) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            states[number] = output.detach().cpu()

        return hook

    handles = [blocks[i].register_forward_hook(keep(i)) for i in wanted]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replayed(blocks: nn.ModuleList, states: States) -> Iterator[None]:
    """In place of the blocks stand their recorded outputs; the others hand on what they get."""
    real = list(blocks)
    for i in range(len(real)):
        blocks[i] = _Replay(states.get(i))
    try:
        yield
    finally:
        for i, block in enumerate(real):
            blocks[i] = block


class _Replay(nn.Module):
    def __init__(self, output: Tensor | None) -> None:
        super().__init__()
        self.output = output

    def forward(self, hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
        return hidden if self.output is None else self.output


def joined(parts: Sequence[States], device: torch.device) -> States:
    """The states of several media, one after the other."""
    return {i: torch.cat([part[i] for part in parts]).to(device) for i in parts[0]}
