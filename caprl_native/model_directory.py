"""A model directory: written shard by shard, under another name until it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from caprl_native.checkpoint_files import flush, flush_entry, written
from caprl_native.distributed.errors import RunError
from caprl_native.policy.model_check import TensorEntry

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Outgoing:
    """A tensor to write: its name, its size in bytes, and what reads or makes it."""

    name: str
    size: int
    tensor: Callable[[], Tensor]


def refuse_existing(target: Path) -> None:
    """Raises RunError where something is there already."""
    if target.exists():
        raise RunError(f"{target} exists: give a new directory")


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` at the end; where the block fails nothing is left.

    Raises RunError where the target is there already, or cannot be written.
    """
    refuse_existing(target)
    temporary = target.with_name(f"{target.name}.tmp")  # of one that was killed, too
    with written(target, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            flush(temporary)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_entry(target.parent)


def write_weights(folder: Path, tensors: Sequence[Outgoing], shard_bytes: int) -> None:
    """`model.safetensors`, or several files and their index where one would be larger."""
    shards = list(_shards(tensors, shard_bytes))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        found = {one.name: one.tensor().contiguous() for one in shard}
        save_file(found, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(found, name)
    if len(shards) > 1:
        total = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text + "\n")


def _shards(tensors: Sequence[Outgoing], limit: int) -> Iterator[list[Outgoing]]:
    """Runs of tensors of at most `limit` bytes each (one larger tensor is alone)."""
    shard: list[Outgoing] = []
    size = 0
    for one in tensors:
        if shard and size + one.size > limit:
            yield shard
            shard, size = [], 0
        shard.append(one)
        size += one.size
    if shard:
        yield shard


def read_tensor(entry: TensorEntry, rows: slice | None = None) -> Tensor:
    """A tensor of a file, or only so much of its first axis."""
    with safe_open(entry.file, "pt") as file:
        if rows is None:
            whole: Tensor = file.get_tensor(entry.name)
            return whole
        part: Tensor = file.get_slice(entry.name)[rows]
        return part
