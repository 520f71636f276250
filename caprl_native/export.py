"""A policy -> a Hugging Face directory that transformers and vLLM load as it is.

Of a model in training (`export`, and `Exporter` for the copies in checkpoints), or of a checkpoint
on disk (`export_checkpoint`, in one process): the files are the same to the bit.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from caprl_native.checkpoint_files import (
    CheckpointError,
    RestrictedPlanner,
    RestrictedReader,
    directory,
    flush,
    flush_entry,
    verify,
    written,
)
from caprl_native.distributed.errors import RunError, reason
from caprl_native.policy.families import family_of
from caprl_native.policy.fsdp import DTYPES, model_files
from caprl_native.policy.model import Policy, load_hf
from caprl_native.rollout.weight_sync import stream

CHUNK = 2**28  # numbers that are read from a checkpoint at a time, 1 GiB in float32


@dataclass(frozen=True)
class Exporter:
    """Writes the policy into a folder (a collective). `source` gives tokenizer and processors."""

    policy: Policy
    source: str | Path
    dtype: str

    def weights(self) -> dict[str, Tensor]:
        """One full copy in `dtype` on rank 0, nothing on the others (a collective).

        A tied head, of which an engine is told apart, is in it once: as the input embedding.
        """
        main = dist.get_rank() == 0
        stored = self.policy.family.stored_name
        own = {stored(name) for name, _ in self.policy.hf.named_parameters()}
        named = stream(self.policy, DTYPES[self.dtype], as_stored=True)
        return {name: on_host(tensor) for name, tensor in named if main and name in own}

    def __call__(self, folder: Path) -> None:
        weights = self.weights()
        if dist.get_rank() == 0:
            write_hf(folder, weights, self.source, self.dtype)


def on_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, of one run of bytes: a file holds nothing else."""
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


def write_hf(folder: Path, weights: dict[str, Tensor], source: str | Path, dtype: str) -> None:
    """Weights by their Hugging Face names, laid out as its family stores them, with the other files
    of the directory `source`."""
    model: Any = load_hf(source, empty=True).to(DTYPES[dtype])  # config.json says its dtype
    # transformers would undo what is laid out otherwise than its model is.
    convert = not family_of(source, or_text=True).stores_otherwise
    model.save_pretrained(folder, state_dict=weights, save_original_format=convert)
    for file in model_files(source):
        if not (folder / file.name).exists():
            shutil.copy2(file, folder / file.name)


def export(policy: Policy, source: str | Path, target: Path, dtype: str) -> None:
    """Writes the directory `target`, or leaves what is there (a collective).

    Raises RunError where it cannot be written.
    """
    weights = Exporter(policy, source, dtype).weights()
    if dist.get_rank() == 0:
        write_export(target, lambda folder: write_hf(folder, weights, source, dtype))
    dist.barrier()


def write_export(target: Path, write: Callable[[Path], None]) -> None:
    """`write` fills a folder under a temporary name, which then takes the place of `target`.

    Raises RunError where that fails; `target` is then untouched.
    """
    temporary = target.with_suffix(".tmp")
    with written(target, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        write(temporary)
        flush(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        flush_entry(target.parent)


def export_checkpoint(root: Path, step: int, source: str | Path, target: Path, dtype: str) -> None:
    """The same of the checkpoint of a step, in this process alone, which holds one copy in `dtype`.

    `source`: the directory that the run's policy came from.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another model than `source`.
        RunError: `target` cannot be written.
    """
    verify(root, step)
    family = family_of(source, or_text=True)
    named = _read(directory(root, step), load_hf(source, empty=True), DTYPES[dtype])
    weights = {family.stored_name(n): on_host(family.as_stored(n, t)) for n, t in named}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_export(target, lambda folder: write_hf(folder, weights, source, dtype))


def _read(folder: Path, hf: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a checkpoint, by their Hugging Face names."""
    hf.tie_weights()
    shapes = {name: parameter.shape for name, parameter in hf.named_parameters()}
    _fits(folder, shapes)
    names = list(shapes)
    while names:
        part: list[str] = []
        size = 0
        while names and (not part or size + shapes[names[0]].numel() <= CHUNK):
            size += shapes[names[0]].numel()
            part.append(names.pop(0))
        tensors = {f"hf.{name}": torch.empty(shapes[name]) for name in part}
        reader = RestrictedReader(folder / "shards")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                dcp.load(
                    {"model": tensors},
                    storage_reader=reader,
                    planner=RestrictedPlanner(),
                    no_dist=True,
                )
        except (OSError, RuntimeError, CheckpointException) as error:
            if isinstance(error, RunError):
                raise
            raise CheckpointError(f"{folder} cannot be read: {reason(error)}") from error
        for name in part:
            tensor = tensors[f"hf.{name}"].to(dtype)
            if not tensor.isfinite().all():
                raise CheckpointError(f"{folder}: {name} is not finite; export an older step")
            yield name, tensor


def _fits(folder: Path, shapes: dict[str, torch.Size]) -> None:
    """Raises CheckpointError unless the checkpoint has these parameters."""
    metadata: dict[str, Any] = (
        RestrictedReader(folder / "shards").read_metadata().state_dict_metadata
    )
    for name, shape in shapes.items():
        found = metadata.get(f"model.hf.{name}")
        if found is None or tuple(found.size) != tuple(shape):
            has = "not there" if found is None else tuple(found.size)
            raise CheckpointError(
                f"{folder} is of another model: {name} is {has} in it and {tuple(shape)} in the "
                "directory that the policy came from; name that one with --policy"
            )
