"""Which folders are checkpoints, and whether their bytes are the ones that were saved.

Beside its content a checkpoint holds `manifest.json`, written last: its step, and size and SHA-256
of every file (1.1 GB/s where it was measured, half of CRC-32's speed; each rank reads a share of
the files, and a checksum of 32 bits would let one in four billion damaged files pass).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from caprl_native.distributed.errors import RunError, reason
from caprl_native.distributed.world import from_rank_0, gather_objects

MANIFEST = "manifest.json"
STATE = "state.json"
EXPORT = "hf"  # the model as transformers loads it: no run reads it, no manifest lists it
_NAME = re.compile(r"step_(\d{8})")
_LEFT_BEHIND = re.compile(r"step_\d{8}\.(tmp|abandoned)(\.\d+)?")

log = logging.getLogger(__name__)


class CheckpointError(RunError):
    """A checkpoint that cannot be used; the message names folder, file, and the one to use."""


def directory(root: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return root / f"step_{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step that a folder's name says; None for a name that no checkpoint has."""
    named = _NAME.fullmatch(folder.name)
    return int(named[1]) if named else None


def lacks(folder: Path) -> str:
    """Why the folder is no whole checkpoint, in the words of a sentence; empty if it is one."""
    if step_of(folder) is None:
        return "has a name that no checkpoint has"
    missing = [name for name in (STATE, MANIFEST) if not (folder / name).is_file()]
    return f"has no {missing[0]}" if missing else ""


def only_export(folder: Path) -> bool:
    """Whether a checkpoint's export is all that was kept of it."""
    return (folder / EXPORT).is_dir() and not (folder / MANIFEST).exists()


def named(root: Path) -> list[Path]:
    """The folders that have a checkpoint's name, whole or not, oldest first."""
    return sorted(d for d in root.glob("step_*") if step_of(d) is not None)


def steps(root: Path) -> list[int]:
    """The steps that have a complete checkpoint, oldest first."""
    return sorted(int(d.name[5:]) for d in root.glob("step_*") if not lacks(d))


def find(root: Path, resume: str, setting: str = "run.resume") -> int:
    """The step that `resume` ("latest" or a number), given by this setting, means.

    Raises:
        FileNotFoundError: there is no such checkpoint, or the folder is no whole one; the message
            lists those that exist.
    """
    available = steps(root)
    if resume == "latest" and available:
        _warn_of_others(root, available[-1])
        return available[-1]
    if resume.isdecimal() and int(resume) in available:
        return int(resume)
    asked = directory(root, int(resume)) if resume.isdecimal() else root / f"step_{resume}"
    problem = f"no such checkpoint under {root}"
    if asked.is_dir():
        older = [s for s in available if not resume.isdecimal() or s < int(resume)]
        problem = f"{asked} {lacks(asked)}: it is no checkpoint; {_use(older)}"
    raise FileNotFoundError(f"{setting} = {resume!r}: {problem}; there are: {available or 'none'}")


def _others(root: Path) -> list[Path]:
    """Folders that look like checkpoints and are none; not what a kill or a new course left, nor an
    export that has outlived its checkpoint."""
    found = [d for d in root.glob("step_*") if d.is_dir() and lacks(d) and not only_export(d)]
    return sorted(d for d in found if not _LEFT_BEHIND.fullmatch(d.name))


def _warn_of_others(root: Path, used: int) -> None:
    if not dist.is_initialized() or dist.get_rank() == 0:
        for folder in _others(root):
            log.warning("%s %s: it is no checkpoint; step %d is used", folder, lacks(folder), used)


def _use(older: list[int]) -> str:
    if not older:
        return "there is no older one; start over with --run.overwrite=true"
    return f"the next older one is usable: --resume {older[-1]}"


# --- written whole or not at all -------------------------------------------------------------


@contextmanager
def written(target: Path, temporary: Path) -> Iterator[None]:
    """Says in one sentence that `target` could not be written, and frees what was of it."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException, SafetensorError) as error:
        if isinstance(error, RunError):
            raise
        if not dist.is_initialized() or dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"{target} cannot be written: {reason(error)}") from error


def flush(folder: Path) -> None:
    """Forces every file below a folder to disk, then the folders' entries."""
    for path in sorted(folder.rglob("*"), reverse=True):
        flush_entry(path)
    flush_entry(folder)


def flush_entry(path: Path) -> None:
    """Forces one file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- checksums --------------------------------------------------------------------------------


def content(folder: Path) -> list[str]:
    """The names of a checkpoint's files, its manifest and export aside, in order."""
    files = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
    return sorted(str(f) for f in files if str(f) != MANIFEST and f.parts[0] != EXPORT)


def write_manifest(folder: Path, step: int) -> None:
    """Writes the list of the files and their checksums (a collective: ranks share the reading)."""
    listed = gather_objects(content(folder))  # a node may not list yet what another one wrote
    sums = checksums(folder, sorted({name for names in listed for name in names}))
    for name, (size, problem) in sums.items():
        if size < 0:
            raise OSError(f"{folder / name} cannot be read back: {problem}")
    if dist.get_rank() == 0:
        text = json.dumps({"version": 1, "step": step, "files": sums}, indent=1)
        (folder / MANIFEST).write_text(text)


def verify(root: Path, step: int) -> None:
    """Raises CheckpointError unless every byte of a checkpoint is what was saved (a collective)."""
    if not (wrong := _wrong(root, step)):
        return
    older = from_rank_0(lambda: [s for s in steps(root) if s < step])
    while older and _wrong(root, older[-1]):
        older.pop()
    raise CheckpointError(f"{directory(root, step)} is damaged: {wrong}; {_use(older)}")


def _wrong(root: Path, step: int) -> str:
    """What is wrong with a checkpoint; empty if nothing is (a collective)."""
    folder = directory(root, step)
    known = from_rank_0(lambda: _known(folder, step))
    if isinstance(known, str):
        return known
    sums = checksums(folder, list(known))
    return next(
        (f"{name} {_differs(sums[name])}" for name in known if sums[name] != known[name]), ""
    )


def _differs(found: list[Any]) -> str:
    return f"cannot be read ({found[1]})" if found[0] < 0 else "is not what was saved"


def _known(folder: Path, step: int) -> dict[str, list[Any]] | str:
    """Size and checksum of each file as the manifest says; or what is wrong with the manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        state = json.loads((folder / STATE).read_bytes())
        known = {str(k): [int(size), str(sha)] for k, (size, sha) in manifest["files"].items()}
        said = {int(manifest["step"]), int(state["step"])} - {step}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} or {STATE} cannot be read ({type(error).__name__}: {error})"
    return f"it is a copy of step {min(said)}" if said else known


def checksums(folder: Path, names: list[str]) -> dict[str, list[Any]]:
    """Size and SHA-256 of every file, each computed by one of the ranks (a collective)."""
    own: dict[str, list[Any]] = {}
    alone = not dist.is_initialized()
    rank, world = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    for name in names[rank::world]:
        try:
            with (folder / name).open("rb") as file:
                sha = hashlib.file_digest(file, "sha256").hexdigest()
                own[name] = [file.tell(), sha]
        except OSError as error:
            own[name] = [-1, error.strerror]
    return {name: value for part in gather_objects(own) for name, value in part.items()}


# --- loading without running what a file says ------------------------------------------------

# All that torch.distributed.checkpoint pickles into `.metadata`.
_ALLOWED = {
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "torch": {"Size", "device"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


class _Unpickler(pickle.Unpickler):
    """Knows the classes of a checkpoint's metadata and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "pathlib._local":  # what CPython 3.13 calls it, and no other
            module = "pathlib"
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not dtype and name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


class RestrictedReader(FileSystemReader):
    """Reads a checkpoint's shards; a file that would run code when it is opened is refused."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Raises CheckpointError where `.metadata` holds anything but metadata."""
        file = Path(self.path) / ".metadata"
        try:
            metadata = _Unpickler(io.BytesIO(file.read_bytes())).load()
            if not isinstance(metadata, Metadata):
                raise pickle.UnpicklingError(f"it holds a {type(metadata).__name__}")
        except (pickle.UnpicklingError, ValueError, EOFError, ImportError, AttributeError) as error:
            raise CheckpointError(f"{file} is not loaded: {error}") from error
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class RestrictedPlanner(DefaultLoadPlanner):
    """Loads plain values (the optimizer's settings) as data; the default one runs what they say."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
