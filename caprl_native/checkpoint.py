"""Save, resume, export. A kill at any byte leaves the last good checkpoint in place.

A checkpoint is a directory `step_00000050`: the sharded model and optimizer in the format of
torch.distributed.checkpoint (so another number of ranks can load it), and `state.json`. It is
written under a temporary name and gets its own only when every byte is on disk.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.stateful import Stateful

from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.parallel import DTYPES, model_files
from caprl_native.rollout.weight_sync import stream

_PREFIX = "step_"

log = logging.getLogger(__name__)


def directory(root: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return root / f"{_PREFIX}{step:08d}"


def steps(root: Path) -> list[int]:
    """The steps that have a complete checkpoint, oldest first."""
    found = [d for d in root.glob(f"{_PREFIX}*") if (d / "state.json").is_file() and not d.suffix]
    return sorted(int(d.name.removeprefix(_PREFIX)) for d in found)


def save(
    root: Path,
    step: int,
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> None:
    """Writes the checkpoint of `step` (a collective); keeps the newest `keep` of all (0: all)."""
    final = directory(root, step)
    temporary = final.with_suffix(".tmp")
    if dist.get_rank() == 0:
        for left in root.glob(f"{_PREFIX}*.tmp"):  # of a process that was killed
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
    dist.barrier()
    model, optim = get_state_dict(policy, optimizer)
    dcp.save({"model": model, "optim": optim}, checkpoint_id=temporary / "shards")
    if dist.get_rank() == 0:
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
        _flush(temporary)
        temporary.rename(final)
        _flush_entry(root)
        for old in steps(root)[:-keep] if keep else []:
            # One that a kill leaves half deleted must have lost its name before.
            shutil.rmtree(directory(root, old).rename(directory(root, old).with_suffix(".tmp")))
    dist.barrier()


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
        abandon(root, 0)
        return
    state = load(root, step, policy, optimizer)
    for name, part in parts.items():
        part.load_state_dict(state[name])


def abandon(root: Path, after: int) -> None:
    """Renames the checkpoints later than step `after` to `*.abandoned` (a collective).

    The run goes on from `after` on another course. Left in place, they would be the "latest" ones,
    and the course's own checkpoints, having lower numbers, would be the first to be deleted.
    """
    dist.barrier()
    if dist.get_rank() == 0:
        for folder in [directory(root, step) for step in steps(root) if step > after]:
            aside = folder.with_suffix(".abandoned")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            log.warning("%s is of an earlier run; it is now %s", folder, aside.name)
    dist.barrier()


def find(root: Path, resume: str) -> int:
    """The step that `resume` ("latest" or a number) means.

    Raises:
        FileNotFoundError: there is no such checkpoint; the message lists those that exist.
    """
    available = steps(root)
    wanted = available[-1] if resume == "latest" and available else resume
    if str(wanted) not in map(str, available):
        raise FileNotFoundError(
            f"run.resume = {resume!r}: no such checkpoint under {root}; "
            f"there are: {available or 'none'}"
        )
    return int(wanted)


def load(
    root: Path, step: int, policy: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Loads a checkpoint in place, on any number of ranks; returns the state saved with it.

    Checkpoints of later steps are set aside, see `abandon`.
    """
    model, optim = get_state_dict(policy, optimizer)
    holder = {"model": model, "optim": optim}
    dcp.load(holder, checkpoint_id=directory(root, step) / "shards")
    set_state_dict(
        policy, optimizer, model_state_dict=holder["model"], optim_state_dict=holder["optim"]
    )
    abandon(root, step)
    return json.loads((directory(root, step) / "state.json").read_text())


def export(policy: Policy, source: str | Path, target: Path, dtype: str) -> None:
    """Writes a Hugging Face directory that transformers and vLLM load as it is (a collective).

    `source` gives tokenizer and processors. Rank 0 holds one full copy in `dtype` meanwhile.
    """
    weights = {}
    main = dist.get_rank() == 0
    for name, tensor in stream(policy, DTYPES[dtype]):
        if main:
            weights[name] = tensor.cpu().clone()
    if main:
        temporary = target.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        model = load_hf(source, empty=True).to(DTYPES[dtype])  # config.json says its dtype
        model.save_pretrained(temporary, state_dict=weights)
        for file in model_files(source):
            if not (temporary / file.name).exists():
                shutil.copy2(file, temporary / file.name)
        _flush(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _flush_entry(target.parent)
    dist.barrier()


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
