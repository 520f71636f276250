"""A policy -> a Hugging Face directory that transformers and vLLM load as it is.

Of a model in training (`export`, and `Exporter` for the copies in checkpoints), or of a checkpoint
on disk (`export_checkpoint`, in one process): the files are the same to the bit. Of a policy with
an adapter: that alone, in peft's format, or the whole model with the adapter in its weights.
"""

from __future__ import annotations

import functools
import json
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

from caprl_native.base_model import require_base
from caprl_native.checkpoint_files import (
    STATE,
    CheckpointError,
    RestrictedPlanner,
    RestrictedReader,
    directory,
    flush,
    flush_entry,
    verify,
    written,
)
from caprl_native.config.lora import LoraConfig
from caprl_native.distributed.errors import RunError, reason
from caprl_native.policy.families import family_of
from caprl_native.policy.fsdp import DTYPES, model_files
from caprl_native.policy.lora import A, B, is_adapter, merged
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.peft_format import write_adapter
from caprl_native.rollout.weight_sync import adapter_tensors, stream

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
        """Of a policy with an adapter: that alone."""
        if self.policy.adapter is not None:
            self.adapter()(folder)
            return
        weights = self.weights()
        if dist.get_rank() == 0:
            write_hf(folder, weights, self.source, self.dtype)

    def adapter(self) -> Callable[[Path], None]:
        """What writes the adapter, gathered now (a collective), into a folder on rank 0."""
        assert self.policy.adapter is not None
        config = self.policy.adapter.config
        tensors = adapter_tensors(self.policy, torch.float32)
        held = {name: on_host(t) for name, t in tensors.items() if dist.get_rank() == 0}
        return lambda folder: write_adapter(folder, config, held, self.source) if held else None


def on_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, of one run of bytes: a file holds nothing else."""
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


def write_hf(folder: Path, weights: dict[str, Tensor], source: str | Path, dtype: str) -> None:
    """Weights by their Hugging Face names, laid out as its family stores them, with the other files
    of the directory `source`."""
    model: Any = load_hf(source, empty=True).to(DTYPES[dtype])  # config.json says its dtype
    for name in model.config.sub_configs:  # and that of its parts, where it says any
        part = getattr(model.config, name)
        part.dtype = part.dtype and DTYPES[dtype]
    # transformers would undo what is laid out otherwise than its model is.
    convert = not family_of(source, or_text=True).stores_otherwise
    model.save_pretrained(folder, state_dict=weights, save_original_format=convert)
    for file in model_files(source):
        if not (folder / file.name).exists():
            shutil.copy2(file, folder / file.name)


def export(policy: Policy, source: str | Path, target: Path, dtype: str) -> None:
    """Writes the directory `target`, or leaves what is there (a collective); of a policy with an
    adapter as `policy.lora.export` says.

    Raises RunError where it cannot be written.
    """
    exporter = Exporter(policy, source, dtype)
    if policy.adapter is not None and policy.adapter.config.export == "adapter":
        write = exporter.adapter()
    else:
        weights = exporter.weights()
        write = functools.partial(write_hf, weights=weights, source=source, dtype=dtype)
    if dist.get_rank() == 0:
        write_export(target, write)
    dist.barrier()


def write_export(target: Path, write: Callable[[Path], None]) -> None:
    """`write` fills a folder under a temporary name, which then takes the place of `target`.

    Raises RunError where that fails; `target` is then untouched.
    """
    temporary = target.with_name(f"{target.name}.tmp")  # of "Qwen3.5", "Qwen3.5.tmp"
    with written(target, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        write(temporary)
        flush(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        flush_entry(target.parent)


def export_checkpoint(
    root: Path,
    step: int,
    source: str | Path,
    target: Path,
    dtype: str,
    *,
    computed: str = "",
    adapter: bool = False,
) -> None:
    """The same of the checkpoint of a step, in this process alone, which holds one copy in `dtype`.

    `source`: the directory that the run's policy came from. `computed`: the precision in which the
    run computed, if not `dtype`: an adapter goes into weights of that. `adapter`: write that alone.

    Raises:
        CheckpointError: the checkpoint is damaged, of another model than `source`, or `adapter` is
            wanted of one that has none.
        RunError: `target` cannot be written.
    """
    verify(root, step)
    folder = directory(root, step)
    base = json.loads((folder / STATE).read_text()).get("base")
    if adapter and base is None:
        raise CheckpointError(f"{folder} holds whole weights, no adapter: leave out --adapter")
    if base is not None:
        require_base(base, source, "--policy")
    write: Callable[[Path], None]
    if adapter:
        lora, tensors = _adapter_of(folder, base)
        write = functools.partial(write_adapter, config=lora, tensors=tensors, base=source)
    else:
        named = _weights_of(folder, source, DTYPES[computed or dtype], DTYPES[dtype], base)
        family = family_of(source, or_text=True)
        weights = {family.stored_name(n): on_host(family.as_stored(n, t)) for n, t in named}
        write = functools.partial(write_hf, weights=weights, source=source, dtype=dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_export(target, write)


def _weights_of(
    folder: Path,
    source: str | Path,
    computed: torch.dtype,
    dtype: torch.dtype,
    base: dict[str, Any] | None,
) -> Iterator[tuple[str, Tensor]]:
    """A checkpoint's whole model; `base`: what it says of that, where it holds an adapter."""
    if base is not None:
        lora, tensors = _adapter_of(folder, base)
        return _with_adapter(source, lora.scale, tensors, computed, dtype)
    hf: Any = load_hf(source, empty=True)
    hf.tie_weights()
    shapes = {name: parameter.shape for name, parameter in hf.named_parameters()}
    return read_parameters(folder, shapes, dtype)


def _adapter_of(folder: Path, base: dict[str, Any]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """A checkpoint's adapter, its A and B by their Hugging Face names."""
    lora = LoraConfig(rank=base["rank"], alpha=base["alpha"])
    return lora, dict(read_parameters(folder, _adapter_shapes(folder), torch.float32))


def _adapter_shapes(folder: Path) -> dict[str, torch.Size]:
    """Of the A and B in a checkpoint, by their Hugging Face names."""
    metadata: dict[str, Any] = (
        RestrictedReader(folder / "shards").read_metadata().state_dict_metadata
    )
    named = {name.removeprefix("model.hf."): held for name, held in metadata.items()}
    return {n: held.size for n, held in named.items() if is_adapter(n) and n[:6] != "optim."}


def _with_adapter(
    source: str | Path,
    scale: float,
    tensors: dict[str, Tensor],
    computed: torch.dtype,
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """The weights of a directory, as a run holds them that computes in `computed`, with an adapter
    in them."""
    for name, parameter in load_hf(source).named_parameters():
        held, layer = parameter.detach().to(computed), name.removesuffix(".weight")
        if f"{layer}.{A}" not in tensors:
            yield name, held.to(dtype)
            continue
        a, b = tensors[f"{layer}.{A}"], tensors[f"{layer}.{B}"]
        yield name, merged(held, a, b, scale, dtype)


def read_parameters(
    folder: Path, shapes: dict[str, torch.Size], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Parameters of a checkpoint that have these shapes, by their Hugging Face names."""
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
