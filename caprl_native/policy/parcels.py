"""Groups change ranks as bytes: what is small is pickled, tensors go as they lie in memory.

A parcel is `[length of the pickle | pickle | tensors]`; all parcels of a step go in one
`all_to_all_single`, on the device where the ranks' fast connections are.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from caprl_native.types import Group, Rollout, Sample

ALIGNED = 16  # where tensors start: at multiples of this many bytes, so that they can be views
_Place = tuple[int, torch.dtype, tuple[int, ...]]  # a tensor's first byte, type and shape


class _Packer(pickle.Pickler):
    """Puts tensors aside, and their places into the pickle."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self.nbytes = 0

    def persistent_id(self, value: object) -> _Place | None:
        if not isinstance(value, Tensor):
            return None
        place = self.nbytes, value.dtype, tuple(value.shape)
        self.tensors.append(value)
        self.nbytes += _aligned(value.nbytes)
        return place


class _Unpacker(pickle.Unpickler):
    """Puts views of `tensors`, bytes one behind the other, into their places."""

    def __init__(self, pickled: bytes, tensors: Tensor) -> None:
        super().__init__(io.BytesIO(pickled))
        self.tensors = tensors

    def persistent_load(self, place: _Place) -> Tensor:
        at, dtype, shape = place
        size = dtype.itemsize * int(np.prod(shape))
        return self.tensors[at : at + size].view(dtype).view(shape)


class Parcel:
    """A group on its way: all that an update needs of it. Its tensors are not copied before
    `write`."""

    def __init__(self, group: Group) -> None:
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(_light(group))
        self.tensors, self.pickled = packer.tensors, file.getvalue()
        self.nbytes = _start(len(self.pickled)) + packer.nbytes

    def write(self, out: Tensor) -> None:
        """Fills `out`, `nbytes` bytes."""
        head = len(self.pickled).to_bytes(8, "little") + self.pickled
        out[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        at = _start(len(self.pickled))
        for tensor in self.tensors:
            flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            out[at : at + len(flat)] = flat
            at += _aligned(len(flat))


def opened(parcel: Tensor) -> Group:
    """The group of a parcel, bytes on the CPU; its tensors are views of them."""
    length = int.from_bytes(parcel[:8].numpy().tobytes(), "little")
    pickled = parcel[8 : 8 + length].numpy().tobytes()
    sample, prompt, rollouts = _Unpacker(pickled, parcel[_start(length) :]).load()
    return Group(sample, prompt, [_restored(*rollout) for rollout in rollouts])


def _light(group: Group) -> tuple[Any, ...]:
    """Without decoded media, texts and readings, which are of no use to an update; the numbers of
    tokens as tensors."""
    prompt = dataclasses.replace(group.prompt, engine={}, pixels=None)
    rollouts = [
        (
            torch.tensor(r.token_ids, dtype=torch.int32),
            torch.tensor(r.logprobs, dtype=torch.float64),
            r.finish_reason,
            r.total,
            r.advantage,
        )
        for r in group.rollouts
    ]
    return Sample(group.sample.id, (), ()), prompt, rollouts


def _restored(
    ids: Tensor, logprobs: Tensor, reason: str, total: float | None, advantage: float
) -> Rollout:
    tokens, numbers = ids.tolist(), logprobs.tolist()
    return Rollout(tokens, numbers, reason, "", total=total, advantage=advantage)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _start(pickled: int) -> int:
    """Where the tensors of a parcel with a pickle of this length start."""
    return _aligned(8 + pickled)


def exchange(
    outgoing: Sequence[Sequence[Parcel]],
    incoming: Sequence[Sequence[int]],
    device: torch.device,
) -> list[list[Group]]:
    """Sends each rank its parcels, by rank; returns those that came, by rank (a collective).

    `incoming`: the sizes of the parcels that each rank sends here.
    """
    sent = [sum(p.nbytes for p in parcels) for parcels in outgoing]
    expected = [sum(sizes) for sizes in incoming]
    send = torch.empty(sum(sent), dtype=torch.uint8, pin_memory=device.type == "cuda")
    at = 0
    for parcel in (p for parcels in outgoing for p in parcels):
        parcel.write(send[at : at + parcel.nbytes])
        at += parcel.nbytes
    received = torch.empty(sum(expected), dtype=torch.uint8, device=device)
    dist.all_to_all_single(received, send.to(device), expected, sent)
    whole, groups, at = received.cpu(), [], 0
    for sizes in incoming:
        ends = [at + sum(sizes[: i + 1]) for i in range(len(sizes))]
        groups.append([opened(whole[e - n : e]) for e, n in zip(ends, sizes, strict=True)])
        at += sum(sizes)
    return groups
