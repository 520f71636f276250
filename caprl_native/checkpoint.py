"""Save, resume. A kill at any byte leaves the last good checkpoint in place.

A checkpoint is a directory `step_00000050`: the sharded model and optimizer in the format of
torch.distributed.checkpoint (so another number of ranks can load it), `state.json`, a manifest
with a checksum of every file (see checkpoint_files.py), and, where that is wished, `hf/`, the model
as transformers loads it. Of a model with an adapter it holds that alone. It is written under a
temporary name and gets its own only when every byte is on disk.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.stateful import Stateful

from caprl_native.checkpoint_files import (
    EXPORT,
    MANIFEST,
    STATE,
    CheckpointError,
    RestrictedPlanner,
    RestrictedReader,
    directory,
    find,
    flush,
    flush_entry,
    lacks,
    named,
    only_export,
    steps,
    verify,
    write_manifest,
    written,
)
from caprl_native.distributed.errors import RunError, reason
from caprl_native.distributed.world import from_rank_0
from caprl_native.files import unused
from caprl_native.policy.lora import is_adapter
from caprl_native.policy.optim import not_finite

__all__ = [
    "CheckpointError",
    "archive_newer",
    "begin",
    "directory",
    "find",
    "load",
    "only_export",
    "save",
    "steps",
]

log = logging.getLogger(__name__)


def save(
    root: Path,
    step: int,
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    *,
    export: Callable[[Path], None] | None = None,
    keep_exports: int = -1,
) -> None:
    """Writes the checkpoint of `step` (a collective); keeps the newest `keep` of all (0: all).

    `export`: a collective that writes a Hugging Face copy into the folder that it is given; of
    older checkpoints than those, the newest `keep_exports` keep theirs (0: all; -1: none).

    Raises:
        RunError: it cannot be written, the disk is full for example; older ones are untouched.
    """
    final = directory(root, step)
    temporary = final.with_suffix(".tmp")
    with written(final, temporary):
        if dist.get_rank() == 0:
            for left in root.glob("step_*.tmp"):  # of a process that was killed
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
        dist.barrier()
        model, optim = _held(policy, optimizer)
        dcp.save({"model": model, "optim": optim}, checkpoint_id=temporary / "shards")
        if dist.get_rank() == 0:
            (temporary / STATE).write_text(json.dumps({"step": step, **state}, indent=1))
        if export is not None:
            export(temporary / EXPORT)
        dist.barrier()
        write_manifest(temporary, step)
        if dist.get_rank() == 0:
            flush(temporary)
            temporary.rename(final)
            flush_entry(root)
            if keep:
                _thin(root, keep, keep_exports)
        dist.barrier()


def _thin(root: Path, keep: int, keep_exports: int) -> None:
    """Deletes all but the newest `keep` checkpoints; of the others, the newest exports stay.

    `keep_exports` counts those of the checkpoints that are kept, too.
    """
    kept = {directory(root, step) for step in steps(root)[-keep:]}
    exports = [folder for folder in named(root) if (folder / EXPORT).is_dir()]
    if keep_exports:
        exports = exports[-keep_exports:] if keep_exports > 0 else []
    for folder in named(root):
        if folder in kept or (lacks(folder) and not (folder / EXPORT).is_dir()):
            continue
        if folder not in exports:
            # One that a kill leaves half deleted must have lost its name before.
            shutil.rmtree(folder.rename(folder.with_suffix(".tmp")))
            continue
        (folder / MANIFEST).unlink(missing_ok=True)  # first: it is no checkpoint from here on
        for path in [path for path in folder.iterdir() if path.name != EXPORT]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


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
    settings = [{k: g[k] for k in _SETTINGS if k in g} for g in optimizer.param_groups]
    model, optim = _held(policy, optimizer)
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
        policy,
        optimizer,
        model_state_dict=holder["model"],
        optim_state_dict=holder["optim"],
        options=StateDictOptions(strict=not any(map(is_adapter, model))),
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


_SETTINGS = ("weight_decay", "betas", "eps", "peak")  # the last one of some groups


def _held(policy: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    """What a checkpoint holds of the two; of a model with an adapter, that alone."""
    model, optim = get_state_dict(policy, optimizer)
    adapter = {name: value for name, value in model.items() if is_adapter(name)}
    return adapter or model, optim


def _fits(folder: Path, reader: RestrictedReader, model: dict, optim: dict) -> None:
    """Raises CheckpointError unless the checkpoint is of this model with these parts frozen."""
    saved: dict[str, Any] = reader.read_metadata().state_dict_metadata
    shapes = {
        k.removeprefix("model."): tuple(v.size) for k, v in saved.items() if k[:6] == "model."
    }
    if (its := any(map(is_adapter, shapes))) != any(map(is_adapter, model)):
        raise CheckpointError(
            f"{folder} was saved {'with' if its else 'without'} an adapter: restore "
            "policy.lora.rank, or start a new run in another run.dir"
        )
    for name in sorted(shapes.keys() | model.keys()):
        ours = tuple(model[name].shape) if name in model else "not there"
        if ours != (theirs := shapes.get(name, "not there")):
            found = "policy.lora" if is_adapter(name) else "policy.path"
            raise CheckpointError(
                f"{folder} is of another model: {name} is {theirs} in it and {ours} in {found};"
                f" restore {found}, or start a new run in another run.dir"
            )
    trained = {k[12:].rpartition(".")[0] for k in saved if k.startswith("optim.state.")}
    if changed := sorted(trained ^ optim["state"].keys()):
        raise CheckpointError(
            f"{folder} was saved with other parts frozen, e.g. {changed[0]}: restore "
            "policy.freeze, or start a new run from an export"
        )
    groups = {k.split(".")[2] for k in saved if k.startswith("optim.param_groups.")}
    if len(groups) < len(optim["param_groups"]):
        raise CheckpointError(
            f"{folder} was saved with one learning rate for parts that have their own now: unset "
            "policy.lr_vision and policy.lr_projector, or start a new run from an export"
        )
