"""Two ranks that see different things in a run's folder. Argument: a folder that holds a run with
checkpoints 3 and 4, of which the last is damaged. Rank 1 sees no checkpoint but the first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from caprl_native import checkpoint_files, run_folder
from caprl_native.config.schema import RunConfig
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.world import init_distributed
from caprl_native.run_folder import RunFolder
from tests.ranks import report


def resumed(folder: Path, **settings: object) -> object:
    """The step that this rank goes on from, or why it does not."""
    try:
        place = RunFolder(RunConfig(dir=str(folder), **settings), main=dist.get_rank() == 0)
    except (RunError, FileNotFoundError) as error:
        return f"{type(error).__name__}: {error}"
    place.close()
    return place.step


def damaged(folder: Path) -> str:
    try:
        checkpoint_files.verify(folder / "checkpoints", 4)
    except RunError as error:
        return str(error)
    return "sound"


def manifest_of_late_files(saved: Path, rank: int) -> list[str]:
    """The files in the manifest where each rank lists its own alone."""
    name = f"{rank}.distcp"
    saved.mkdir(exist_ok=True)
    (saved / name).write_text(name)
    checkpoint_files.content = lambda folder: [name]
    checkpoint_files.write_manifest(saved, 1)
    dist.barrier()
    return sorted(json.loads((saved / "manifest.json").read_text())["files"])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    dims = init_distributed()
    if not dims.is_main:
        for module in (checkpoint_files, run_folder):
            module.find = lambda root, resume: 3  # type: ignore[attr-defined]
        checkpoint_files.steps = lambda root: [3]
        run_folder._held = lambda folder: []
    found = {
        "latest": resumed(folder, resume="latest"),
        "missing": resumed(folder, resume="7"),
        "held": resumed(folder),
        "damaged": damaged(folder),
    }
    if not dims.is_main:
        checkpoint_files.steps = lambda root: []
    found["damaged, no other seen"] = damaged(folder)
    run_folder._SEEN_S = 1.0
    found["manifest"] = manifest_of_late_files(folder / "fresh", dims.rank)
    own = folder / f"of rank {dims.rank}"
    own.mkdir()
    found["apart"] = resumed(own)
    found["left"] = sorted(f.name for f in folder.glob(".shared*"))
    report(found)
    dist.destroy_process_group()
