"""Save, resume, export. A kill at any byte leaves the last good checkpoint in place.

A checkpoint is a directory `step_00000050`: the sharded model and optimizer in the format of
torch.distributed.checkpoint (so another number of ranks can load it), `state.json`, and a manifest
with a checksum of every file (see checkpoint_files.py). It is written under a temporary name and
gets its own only when every byte is on disk.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.stateful import Stateful

from caprl_native.checkpoint_files import (
    STATE,
    CheckpointError,
    RestrictedPlanner,
    RestrictedReader,
    directory,
    find,
    named,
    steps,
    verify,
    write_manifest,
)
from caprl_native.distributed.errors import RunError, reason
from caprl_native.distributed.world import from_rank_0
from caprl_native.files import unused
from caprl_native.policy.fsdp import DTYPES, model_files
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.optim import not_finite
from caprl_native.rollout.weight_sync import stream

__all__ = [
    "CheckpointError",
    "archive_newer",
    "begin",
    "directory",
    "export",
    "find",
    "load",
    "save",
    "steps",
    "write_export",
]

log = logging.getLogger(__name__)


def save(
    root: Path,
    step: int,
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> None:
    """Writes the checkpoint of `step` (a collective); keeps the newest `keep` of all (0: all).

    Raises:
        RunError: it cannot be written, the disk is full for example; older ones are untouched.
    """
    final = directory(root, step)
    temporary = final.with_suffix(".tmp")
    with _written(final, temporary):
        if dist.get_rank() == 0:
            for left in root.glob("step_*.tmp"):  # of a process that was killed
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
        dist.barrier()
        model, optim = get_state_dict(policy, optimizer)
        dcp.save({"model": model, "optim": optim}, checkpoint_id=temporary / "shards")
        if dist.get_rank() == 0:
            (temporary / STATE).write_text(json.dumps({"step": step, **state}, indent=1))
        dist.barrier()
        write_manifest(temporary, step)
        if dist.get_rank() == 0:
            _flush(temporary)
            temporary.rename(final)
            _flush_entry(root)
            for old in steps(root)[:-keep] if keep else []:
                # One that a kill leaves half deleted must have lost its name before.
                shutil.rmtree(directory(root, old).rename(directory(root, old).with_suffix(".tmp")))
        dist.barrier()


@contextmanager
def _written(target: Path, temporary: Path) -> Iterator[None]:
    """Says in one sentence that `target` could not be written, and frees what was of it."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        if isinstance(error, RunError):
            raise
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"{target} cannot be written: {reason(error)}") from error


def begin(
    root: Path,
    step: int,
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Mapping[str, Stateful],
) -> None:
    """Puts a run at the end of `step`, or at its start for 0 (a collective).

    `parts`: what else keeps a state, under the names that it was saved with.
    """
    if not step:
        archive_newer(root, 0)
        return
    state = load(root, step, policy, optimizer)
    for name, part in parts.items():
        part.load_state_dict(state[name])


def archive_newer(root: Path, after: int) -> None:
    """Renames the checkpoints later than step `after` to `*.abandoned` (a collective).

    The run goes on from `after` on another course. Left in place, they would be the "latest" ones,
    and the course's own checkpoints, having lower numbers, would be the first to be deleted. What
    was put aside before stays: the new ones get a number, `*.abandoned.2`.
    """
    dist.barrier()
    if dist.get_rank() == 0:
        for folder in [d for d in named(root) if d > directory(root, after)]:
            aside = unused(folder.with_suffix(".abandoned"))
            folder.rename(aside)
            log.warning("%s is of an earlier run; it is now %s", folder, aside.name)
    dist.barrier()


def load(
    root: Path, step: int, policy: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Loads a checkpoint in place, on any number of ranks; returns the state saved with it.

    The optimizer keeps its own settings (weight decay, betas, epsilon): those of the config that
    resumes. Checkpoints of later steps are set aside, see `archive_newer`.

    Raises:
        CheckpointError: it is damaged, or of another model, or its weights are not finite.
    """
    verify(root, step)
    folder = directory(root, step)
    settings = [{k: group[k] for k in _SETTINGS} for group in optimizer.param_groups]
    model, optim = get_state_dict(policy, optimizer)
    holder: dict[str, Any] = {"model": model, "optim": optim}
    reader = RestrictedReader(folder / "shards")
    try:
        _fits(folder, reader, model, optim)
        dcp.load(holder, storage_reader=reader, planner=RestrictedPlanner())
    except (OSError, RuntimeError, CheckpointException) as error:
        if isinstance(error, RunError):
            raise
        raise CheckpointError(f"{folder} cannot be loaded: {reason(error)}") from error
    set_state_dict(
        policy, optimizer, model_state_dict=holder["model"], optim_state_dict=holder["optim"]
    )
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)
    if names := not_finite(policy.named_parameters()):
        raise CheckpointError(
            f"{folder}: {len(names)} of its weights are not finite, e.g. {names[0]}; "
            "go on from an older checkpoint (--resume STEP)"
        )
    archive_newer(root, step)
    return from_rank_0(lambda: json.loads((folder / STATE).read_text()))


_SETTINGS = ("weight_decay", "betas", "eps")


def _fits(folder: Path, reader: RestrictedReader, model: dict, optim: dict) -> None:
    """Raises CheckpointError unless the checkpoint is of this model with these parts frozen."""
    saved: dict[str, Any] = reader.read_metadata().state_dict_metadata
    shapes = {
        k.removeprefix("model."): tuple(v.size) for k, v in saved.items() if k[:6] == "model."
    }
    for name in sorted(shapes.keys() | model.keys()):
        ours = tuple(model[name].shape) if name in model else "not there"
        if ours != (theirs := shapes.get(name, "not there")):
            raise CheckpointError(
                f"{folder} is of another model: {name} is {theirs} in it and {ours} in policy.path;"
                " restore policy.path, or start a new run in another run.dir"
            )
    trained = {k[12:].rpartition(".")[0] for k in saved if k.startswith("optim.state.")}
    if changed := sorted(trained ^ optim["state"].keys()):
        raise CheckpointError(
            f"{folder} was saved with other parts frozen, e.g. {changed[0]}: restore "
            "policy.freeze, or start a new run from an export"
        )


def export(policy: Policy, source: str | Path, target: Path, dtype: str) -> None:
    """Writes a Hugging Face directory that transformers and vLLM load as it is (a collective).

    `source` gives tokenizer and processors. Rank 0 holds one full copy in `dtype` meanwhile.
    Raises RunError where it cannot be written.
    """
    weights = {}
    main = dist.get_rank() == 0
    for name, tensor in stream(policy, DTYPES[dtype]):
        if main:
            weights[name] = tensor.cpu().clone()

    def write(folder: Path) -> None:
        model: Any = load_hf(source, empty=True).to(DTYPES[dtype])  # config.json says its dtype
        model.save_pretrained(folder, state_dict=weights)
        for file in model_files(source):
            if not (folder / file.name).exists():
                shutil.copy2(file, folder / file.name)

    if main:
        write_export(target, write)
    dist.barrier()


def write_export(target: Path, write: Callable[[Path], None]) -> None:
    """`write` fills a folder under a temporary name, which then takes the place of `target`.

    Raises RunError where that fails; `target` is then untouched.
    """
    temporary = target.with_suffix(".tmp")
    with _written(target, temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            write(temporary)
        except SafetensorError as error:  # derives from Exception alone
            raise OSError(str(error)) from error
        _flush(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _flush_entry(target.parent)


def _flush(folder: Path) -> None:
    """Forces every file below a folder to disk, then the folders' entries."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
