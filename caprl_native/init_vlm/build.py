"""Writes the result, verified, with a report of what was made of what."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from caprl_native.init_vlm.plan import Filled, Plan, plan
from caprl_native.init_vlm.projector import drawn
from caprl_native.init_vlm.request import Request
from caprl_native.init_vlm.verify import verify
from caprl_native.model_directory import (
    Outgoing,
    new_directory,
    read_tensor,
    refuse_existing,
    write_weights,
)
from caprl_native.policy.fsdp import DTYPES, model_files
from caprl_native.policy.model_check import check_directory, read_json, weight_files

REPORT = "init.json"
SMALL_BYTES = 2**30  # results up to here are verified unless that is unwished
_DTYPE_KEYS = ("dtype", "torch_dtype")
Said = Callable[[str], None]


def build(request: Request, say: Said = print) -> dict[str, Any]:
    """Writes `request.target` and returns what its `init.json` says.

    Raises:
        ModelError: a part cannot be read, or the parts do not fit (`PartsDiffer`), or the result
            was found not to be what it should be: nothing is left of it.
        RunError: the target is there already, or cannot be written.
    """
    refuse_existing(request.target)
    check_directory(request.vision, processor=True)
    check_directory(request.language, chat=False)
    found = plan(request.vision, request.language, keep_projector=request.projector == "keep")
    with new_directory(request.target) as folder:
        report = _fill(request, found, folder, say)
    return report


def _fill(request: Request, found: Plan, folder: Path, say: Said) -> dict[str, Any]:
    """All files of the result, verified; `init.json` is the last."""
    _write_weights(request, found, folder)
    for file in model_files(request.vision):
        if file.name != REPORT:
            shutil.copy2(file, folder / file.name)
    _state_dtype(folder / "config.json", request.dtype)
    size = sum(file.stat().st_size for file in weight_files(folder))
    checks: dict[str, float] = {}
    if request.verify == "always" or (request.verify == "small" and size <= SMALL_BYTES):
        say("verifying")
        checks = verify(request, folder)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(request).items()}
    report = {
        **settings,
        "parts": found.counts(),
        "verified": checks,
        "sha256": {
            "vision": _hashes(request.vision),
            "language": _hashes(request.language),
            "result": _hashes(folder),
        },
    }
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    return report


def _write_weights(request: Request, found: Plan, folder: Path) -> None:
    dtype = DTYPES[request.dtype]
    shapes = {f.name: f.shape for f in found.tensors if f.part == "projector"}

    def outgoing(filled: Filled) -> Outgoing:
        size = dtype.itemsize * math.prod(filled.shape)
        return Outgoing(filled.name, size, lambda: _tensor(filled, shapes, request).to(dtype))

    write_weights(folder, [outgoing(filled) for filled in found.tensors], request.shard_bytes)


def _tensor(filled: Filled, shapes: dict[str, tuple[int, ...]], request: Request) -> Tensor:
    """What fills it: read, or drawn where it has no source."""
    if filled.source is None:
        return drawn(filled.name, shapes, request.init, request.seed)
    return read_tensor(filled.source)


def _state_dtype(file: Path, dtype: str) -> None:
    """Says the result's precision wherever the config says one; it is else left as it is."""
    config = read_json(file)
    tables = [config, *(value for value in config.values() if isinstance(value, dict))]
    stated = [(table, key) for table in tables for key in _DTYPE_KEYS if table.get(key)]
    if all(table[key] == dtype for table, key in stated):
        return
    for table, key in stated:
        table[key] = dtype
    file.write_text(json.dumps(config, indent=2) + "\n")


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of weights."""
    found = {}
    for file in weight_files(folder):
        with file.open("rb") as opened:
            found[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found
