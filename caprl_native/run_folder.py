"""The folder of a run: one process at a time writes into it, over no other run unless told to.

All ranks must see it; what is in it, rank 0 alone looks at, and tells the others.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any, NoReturn, TextIO

import tomli
import torch.distributed as dist

from caprl_native.checkpoint_files import find, named
from caprl_native.config.schema import RunConfig
from caprl_native.distributed.errors import RunError, Stopped, writing
from caprl_native.distributed.signals import exit_code
from caprl_native.distributed.world import from_rank_0, gather_objects
from caprl_native.files import atomic_write, unused

LOCK = ".lock"
CONFIG = "config.toml"
HISTORY = "history"  # the folder of texts that captions left for later prompts
_PATIENCE_S = 5.0  # a killed process may need a moment to give its lock back
_SEEN_S = 10.0  # a file server's clients look for new files every few seconds
_NOT_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # file systems without locks
_OF_THE_START = ("run.resume", "run.overwrite")  # given again at every start

log = logging.getLogger(__name__)


class RunFolder:
    """A run's folder, locked by rank 0 until `close` or the end of its process (a collective).

    Raises, on all ranks alike:
        RunError: another process works in it; a rank does not see it; or it holds a run, which
            neither `run.resume` goes on with nor `run.overwrite` gives up.
        FileNotFoundError: `run.resume` names no checkpoint.
    """

    def __init__(self, run: RunConfig, *, main: bool) -> None:
        self.path, self.main = run.folder, main
        self.checkpoints = self.path / "checkpoints"
        self._lock: TextIO | None = None
        from_rank_0(self._take)
        try:
            check_shared(self.path)
            self.step = from_rank_0(lambda: self._begin(run))
        except Exception:
            self.close()
            raise

    def _take(self) -> None:
        if self.main:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(self.path)

    def _begin(self, run: RunConfig) -> int:
        """The step to go on from."""
        if run.resume:
            return find(self.checkpoints, run.resume)
        if self.main:
            self._start_over(run.overwrite)
        return 0

    def _start_over(self, overwrite: bool) -> None:
        """Puts what an earlier run left aside, where that is wished."""
        held = _held(self.path)
        if held and not overwrite:
            raise RunError(
                f"{self.path} holds a run ({', '.join(held)}): go on with it by --resume, put it "
                "aside and start over by --run.overwrite=true, or give another --run.dir"
            )
        for name in ("metrics.jsonl", "export", HISTORY):
            if name in held:
                aside = unused(self.path / f"{name}.abandoned")
                (self.path / name).rename(aside)
                log.warning("%s is of an earlier run; it is now %s", self.path / name, aside.name)

    def write_config(self, resolved: str) -> None:
        """Writes `config.toml`. On resuming, what changed is said, and the old file is kept as
        `config.step_000010.toml`: the settings up to that step."""
        if not self.main:
            return
        file = self.path / CONFIG
        if self.step and file.is_file() and (changed := changes(file.read_text(), resolved)):
            kept = unused(self.path / f"config.step_{self.step:06d}.toml")
            shutil.copy2(file, kept)
            log.warning(
                "resumed at step %d with changed settings, obeyed from here on: %s (before: %s)",
                self.step,
                "; ".join(changed),
                kept.name,
            )
        with writing(file), atomic_write(file) as opened:
            opened.write(resolved)

    def stop(self, step: int, steps: int, number: int) -> NoReturn:
        """Ends a run that a signal of this number has stopped after `step` (a collective).

        Raises:
            Stopped: always, on all ranks once all are here: their launcher ends what is left of
                the others as soon as one has ended.
        """
        dist.barrier()
        name = signal.Signals(number).name
        raise Stopped(
            f"{name} came, and step {step} of {steps} is done and saved in {self.checkpoints}; "
            "go on with --resume",
            exit_code(number),
        )

    def close(self) -> None:
        """Lets other processes in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def check_shared(folder: Path) -> None:
    """Raises RunError, on all ranks, unless each sees a file that rank 0 writes (a collective)."""
    mark = folder / from_rank_0(lambda: _marked(folder))
    host = socket.gethostname()
    unseen = gather_objects(None if _appears(mark) else host)
    if not dist.is_initialized() or dist.get_rank() == 0:
        mark.unlink()
    if hosts := sorted({name for name in unseen if name is not None}):
        first = from_rank_0(socket.gethostname)
        raise RunError(
            f"run.dir: expected a folder that all nodes share: what rank 0 writes into {folder} on "
            f"{first} is not seen on {', '.join(hosts)} after {_SEEN_S:.0f} s"
        )


def _marked(folder: Path) -> str:
    """The name of a new file in the folder, which no node has looked for before."""
    mark = folder / f".shared.{secrets.token_hex(8)}"
    with writing(mark):
        mark.touch()
    return mark.name


def _appears(file: Path) -> bool:
    """Whether a file that another node has written is there, or comes within a moment."""
    until = time.monotonic() + _SEEN_S
    while not file.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
        if file.parent.is_dir():
            os.listdir(file.parent)  # makes NFS ask its server what is new
    return True


def _held(folder: Path) -> list[str]:
    """What an earlier run left in the folder, by name."""
    metrics, saved = folder / "metrics.jsonl", named(folder / "checkpoints")
    held = ["metrics.jsonl"] if metrics.is_file() and metrics.stat().st_size else []
    held += [f"{len(saved)} checkpoint(s)"] if saved else []
    return held + [name for name in ("export", HISTORY) if (folder / name).exists()]


def _locked(folder: Path) -> TextIO:
    """The folder's lock file, locked; it says who holds it."""
    file = (folder / LOCK).open("a+", encoding="utf-8")
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                file.seek(0)
                other = file.read().strip() or "another process"
                file.close()
                raise RunError(
                    f"{folder} is in use by {other}: wait until it has ended, or give another "
                    "--run.dir"
                ) from None
            time.sleep(0.2)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            log.warning(
                "%s cannot be locked (%s): start one run only in it", folder, error.strerror
            )
            break
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def changes(old: str, new: str) -> list[str]:
    """The settings in which two resolved configs differ, `policy.lr: 1e-06 -> 1e-05`."""
    try:
        before = _flat(tomli.loads(old))
    except tomli.TOMLDecodeError as error:
        return [f"{CONFIG} was no TOML any more ({error})"]
    after, missing = _flat(tomli.loads(new)), "not set"
    return [
        f"{key}: {before.get(key, missing)!r} -> {after.get(key, missing)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, missing) != after.get(key, missing) and key not in _OF_THE_START
    ]


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
