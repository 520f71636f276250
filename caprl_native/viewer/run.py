"""A run's folder as the page sees it: what is new is read, the rest stays on the disk.

In memory are the lines of metrics and alarms, and the index of each file of captions; captions
themselves are read group by group, where the index says.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli

from caprl_native.observe.meanings import EVAL, meanings_of
from caprl_native.observe.page.document import finite, json_text
from caprl_native.observe.rollout_index import FOLDERS, index_of_file, read_index

Record = dict[str, Any]
CONFIG, METRICS, ALARMS = "config.toml", "metrics.jsonl", "alarms.jsonl"
SAMPLED = "rollouts"
_STEP_FILE = re.compile(r"step_(\d{6,12})\.jsonl")
_INDEXING_S = 1.0  # of one refresh, spent on files that have no index; the rest is left for later


class NotARun(ValueError):
    """The folder holds no run."""


class Changed(Exception):
    """The file is not what its index says: the run has written it anew."""


@dataclass
class Tail:
    """The lines of a file that grows, each a JSON object with its `step`."""

    path: Path
    lines: list[str] = field(default_factory=list)  # as JSON without NaN
    steps: list[int] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)  # by name, the first line that has it
    kinds: set[tuple[str, int]] = field(default_factory=set)  # of captions whose figures are here
    _at: int = 0
    _inode: int = 0
    _shapes: dict[tuple[str, ...], set[str]] = field(default_factory=dict)

    def read(self) -> bool:
        """Reads on; False where the file was written anew, which begins from its start."""
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            return self._forget(0)

    def _read(self, file: Any) -> bool:
        status = os.fstat(file.fileno())
        same = status.st_ino == self._inode and status.st_size >= self._at
        same = same or self._forget(status.st_ino)
        file.seek(self._at)
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.split(b"\n"):
            self._add(line)
        return same

    def _forget(self, inode: int) -> bool:
        """Whether there was nothing to forget."""
        had = bool(self.lines)
        self.lines, self.steps, self.names, self.kinds = [], [], {}, set()
        self._at, self._inode, self._shapes = 0, inode, {}
        return not had

    def _add(self, line: bytes) -> None:
        """A line that a kill cut short, and whose rest another process wrote, is none."""
        try:
            value = json.loads(line)
        except ValueError:
            return
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            self.kinds |= {(kind, value["step"]) for kind in self._kinds_of(tuple(value))}
            is_json = b"NaN" not in line and b"Infinity" not in line
            self.lines.append(line.decode() if is_json else json_text(finite(value)))
            self.steps.append(value["step"])

    def _kinds_of(self, names: tuple[str, ...]) -> set[str]:
        """Which captions a line of these names is of; most lines have the same names."""
        if names not in self._shapes:
            for name in names:
                self.names.setdefault(name, len(self.lines))
            self._shapes[names] = {_kind_of(name) for name in names}
        return self._shapes[names]


@dataclass(frozen=True)
class StepFile:
    """A file of captions with its index: a head, then a line per group."""

    kind: str
    step: int
    file: Path
    index: bytes

    @cached_property
    def lines(self) -> list[bytes]:
        return self.index.split(b"\n")[1:-1]

    def group(self, number: int) -> list[Record]:
        """The records of a group. Raises IndexError, and Changed."""
        about = json.loads(self.lines[number])
        with self.file.open("rb") as opened:
            opened.seek(about["at"])
            data = opened.read(about["bytes"])
        return _records(data, about["id"])

    def groups(self) -> Iterator[tuple[int, bytes]]:
        """The number of each group, and its lines as they stand in the file."""
        with self.file.open("rb") as opened:
            for number, line in enumerate(self.lines):
                about = json.loads(line)
                opened.seek(about["at"])
                yield number, opened.read(about["bytes"])


def _records(data: bytes, name: str) -> list[Record]:
    try:
        records = [json.loads(line) for line in data.decode().split("\n") if line]
    except ValueError as error:
        raise Changed(str(error)) from error
    if not records or any(record.get("id") != name for record in records):
        raise Changed(f"there is no group of {name}")
    return [finite(record) for record in records]


class Run:
    """A run's folder. `refresh`, then `news`: what a page that knows so much lacks.

    Raises NotARun where there is nothing of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not any((folder / name).exists() for name in (CONFIG, METRICS)):
            raise NotARun(f"{folder}: expected a run's folder, with {CONFIG} or {METRICS} in it")
        self.name = folder.resolve().name
        self.epoch = 0  # how often what was there has changed
        self.metrics, self.alarms = Tail(folder / METRICS), Tail(folder / ALARMS)
        self.steps: list[StepFile] = []
        self.left = 0  # files of captions that are still to be indexed
        self.broken: dict[str, str] = {}  # files that cannot be read, and why
        self._seen: dict[Path, tuple[int, int]] = {}
        self._lock = threading.Lock()

    # --- what is there ------------------------------------------------------------------------

    def refresh(self) -> None:
        """Reads what the run has written since the last time."""
        with self._lock:
            same = self.metrics.read()
            same = self.alarms.read() and same
            if not (same and self._same_files()):
                self.epoch += 1
                self.steps, self._seen, self.broken = [], {}, {}
            self._take_files()

    def _same_files(self) -> bool:
        return all(_state(path) == state for path, state in self._seen.items())

    def _take_files(self) -> None:
        """Takes the files of steps that are done; the newest first, as far as the time goes."""
        until = time.monotonic() + _INDEXING_S
        fresh = sorted(self._files(), key=lambda found: -found[1])
        self.left = len(fresh)
        for kind, step, path in fresh:
            index = read_index(self.folder, f"{kind}/{path.name}")
            if index is None and time.monotonic() > until:
                continue
            self._take(kind, step, path, index)
            self.left -= 1

    def _take(self, kind: str, step: int, path: Path, index: bytes | None) -> None:
        self._seen[path] = _state(path)
        try:
            index = index_of_file(path) if index is None else index
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.broken[f"{kind}/{path.name}"] = f"{type(error).__name__}: {error}"
            return
        self.steps.append(StepFile(kind, step, path, index))

    def _files(self) -> Iterator[tuple[str, int, Path]]:
        """Those that are new, of steps whose figures are written: no leftovers of another run."""
        for kind in FOLDERS:
            folder = self.folder / kind
            for entry in os.scandir(folder) if folder.is_dir() else ():
                found = _STEP_FILE.fullmatch(entry.name)
                step, path = int(found[1]) if found else -1, folder / entry.name
                if (kind, step) in self.metrics.kinds and path not in self._seen:
                    yield kind, step, path

    # --- what the page gets -------------------------------------------------------------------

    def about(self) -> Record:
        """What the page must know before anything else."""
        settings = self.settings
        return {
            "name": self.name,
            "folder": str(self.folder),
            "steps": settings.get("run", {}).get("steps"),
            "settings": {key: json.dumps(value, default=str) for key, value in _flat(settings)},
        }

    @property
    def settings(self) -> Record:
        """The resolved config, as far as it can be read; a resumed run may have another."""
        try:
            return tomli.loads((self.folder / CONFIG).read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    @property
    def terms(self) -> dict[str, str]:
        """The types of reward terms by their names."""
        tables = self.settings.get("reward", {}).get("terms", {})
        return {name: table.get("type", name) for name, table in tables.items()}

    def cursor(self) -> list[int]:
        """How much there is."""
        return [self.epoch, len(self.metrics.lines), len(self.alarms.lines), len(self.steps)]

    def news(self, cursor: Sequence[int]) -> Iterator[str]:
        """A JSON object of what a page lacks that has got as far as `cursor`; [] is nothing."""
        with self._lock:
            again = len(cursor) != 4 or cursor[0] != self.epoch
            _, metrics, alarms, steps = (0, 0, 0, 0) if again else cursor
            fresh = self.metrics.lines[metrics:]
            yield f'{{"again":{json.dumps(again)},"left":{self.left},"cursor":{self.cursor()}'
            yield f',"broken":{json_text(self.broken)}'
            names = [name for name, first in self.metrics.names.items() if first >= metrics]
            yield f',"meanings":{json_text(meanings_of(names, self.terms) if names else {})}'
            yield f',"metrics":[{",".join(fresh)}]'
            yield f',"alarms":[{",".join(self.alarms.lines[alarms:])}],"steps":['
            for i, step in enumerate(self.steps[steps:]):
                yield "," if i else ""
                yield f'{{"kind":"{step.kind}","step":{step.step},"groups":['
                yield b",".join(step.lines).decode() + "]}"
            yield "]}"

    def find(self, kind: str, step: int) -> StepFile:
        """The captions of a step. Raises KeyError."""
        with self._lock:
            for one in self.steps:
                if (one.kind, one.step) == (kind, step):
                    return one
        raise KeyError(f"{self.name} has no captions {kind} of step {step}")


def _kind_of(metric: str) -> str:
    """Which captions a metric is a figure of."""
    if metric == "step":
        return ""
    return "eval" if metric.startswith(EVAL) else "blind" if metric.endswith("/blind") else SAMPLED


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return status.st_mtime_ns, status.st_size


def _flat(table: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
