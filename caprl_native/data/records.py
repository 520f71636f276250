"""Data files -> samples. JSONL and Parquet are indexed, and a sample is read when asked for.

`read_records` checks every record once, at start-up, and refuses to go on if any is wrong:
a data set with a hole in it should be mended, not trained on. (Media files are another matter:
they are opened when they are needed, see `loader.py`.)
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from caprl_native.data.formats import FieldError, Kind, parse_record
from caprl_native.data.parquet import ParquetRows
from caprl_native.types import MediaRef, Sample

_SHOWN = 20


class DataError(ValueError):
    """Data files are wrong; the message names file, line (or row), field, and the fix."""


class Rows(Protocol):
    """The records of one file, by position."""

    unit: str  # "line" or "row"

    def __len__(self) -> int: ...
    def number(self, i: int) -> int: ...  # of record i in its file, from 1
    def scan(self) -> Iterator[Any]: ...  # every record (or its FieldError), no embedded bytes
    def read(self, i: int) -> Any: ...  # may raise FieldError


class JsonLines:
    """The non-empty lines of a JSONL file, by byte offset (16 bytes of memory per record)."""

    unit = "line"

    def __init__(self, path: str) -> None:
        self.path = path
        self._starts, self._numbers = array("q"), array("q")
        self._fd: int | None = None
        position = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    self._starts.append(position)
                    self._numbers.append(number)
                position += len(line)
        self._end = position

    def __len__(self) -> int:
        return len(self._starts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_fd": None}  # a worker opens the file itself

    def number(self, i: int) -> int:
        return self._numbers[i]

    def scan(self) -> Iterator[Any]:
        for i in range(len(self)):
            try:
                yield self.read(i)
            except FieldError as error:
                yield error

    def read(self, i: int) -> Any:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._fd)
        start = self._starts[i]
        end = self._starts[i + 1] if i + 1 < len(self) else self._end
        try:
            return json.loads(os.pread(self._fd, end - start, start).decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            problem = f"malformed JSON: {error.msg} at column {error.colno}"
        except UnicodeDecodeError as error:
            problem = f"not UTF-8: {error.reason} at byte {error.start + 1}"
        raise FieldError("record", problem, "every line must be one complete JSON object")


@dataclass
class Records(Sequence[Sample]):
    """Samples of one or more files, read when asked for; cheap to send to another process."""

    files: list[Rows]
    parsers: list[partial[Sample]]
    names: list[str]
    renamed: dict[int, str] = field(default_factory=dict)  # ids that another record has already
    fingerprint: str = ""  # of all ids, in order
    contents: dict[str, str] = field(default_factory=dict)  # fingerprints of the rest, by kind

    def __post_init__(self) -> None:
        self._ends = list(accumulate(len(rows) for rows in self.files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        f = bisect_right(self._ends, index)
        i = index - (self._ends[f - 1] if f else 0)
        try:
            sample = self.parse(f, i, self.files[f].read(i))
        except FieldError as error:  # it was right at start-up
            raise DataError(f"{self.where(f, i)}: {error}; did the file change?") from error
        return replace(sample, id=self.renamed[index]) if index in self.renamed else sample

    def parse(self, f: int, i: int, raw: Any) -> Sample:
        number, name = self.files[f].number(i), self.names[f]
        return self.parsers[f](
            raw, source=f"{name}:{number}", default_id=f"{Path(name).stem}:{number}"
        )

    def where(self, f: int, i: int) -> str:
        return f"{self.names[f]}: {self.files[f].unit} {self.files[f].number(i)}"


def read_records(
    files: Sequence[str | os.PathLike[str]],
    media_root: str | os.PathLike[str] = "",
    *,
    kind: Kind = "questions",
    prompt_override: str = "",
) -> Records:
    """Opens data files (JSONL or Parquet, told apart by content; `*` in a name is expanded).

    Relative media paths start from `media_root`, or from the data file's own folder if it is empty.
    Raises `DataError` with the first 20 of all problems found in any file.
    """
    paths = [path for name in files for path in expanded(os.fspath(name), must_match=True)]
    if not paths:
        raise DataError("no data files are given; set data.files")
    parsers = [
        partial(
            parse_record,
            kind=kind,
            media_root=os.path.expanduser(media_root) or os.path.dirname(path),
            prompt_override=prompt_override,
        )
        for path in paths
    ]
    records = Records([_open(path) for path in paths], parsers, paths)
    _check(records)
    return records


def expanded(name: str, must_match: bool = False) -> list[str]:
    """The files that a name with `~`, `*` or `**` stands for; itself if it is a plain one.

    Raises DataError with `must_match` where no file matches a pattern.
    """
    path = os.path.expanduser(name)
    if any(c in path for c in "*?[") and not os.path.exists(path):
        found = sorted(glob(path, recursive=True))
        if must_match and not found:
            raise DataError(f"{name}: no file matches")
        return found or [path]
    return [path]


def _open(path: str) -> Rows:
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check data.files") from error
    if start == b"PAR1":
        try:
            return ParquetRows(path)
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise DataError(f"{path}: damaged Parquet file: {error}") from error
    if start[:2] == b"\x1f\x8b" or start == b"\x28\xb5\x2f\xfd":
        raise DataError(f"{path}: is compressed; unpack it first")
    return JsonLines(path)


class Contents:
    """Fingerprints of what records hold, by kind, so that a message can name what changed."""

    def __init__(self) -> None:
        self._digests = {
            kind: hashlib.blake2b(digest_size=16)
            for kind in ("prompts", "questions", "responses", "media files")
        }

    def add(self, sample: Sample) -> None:
        """Takes a record in; of its media files the names within the folder, and the sizes."""
        parts = {
            "prompts": sample.messages,
            "questions": sample.questions,
            "responses": sample.response,
            "media files": [
                (m.kind, Path(m.name).name, m.start, m.end, m.fps, _size(m)) for m in sample.media
            ],
        }
        for kind, value in parts.items():
            self._digests[kind].update(repr(value).encode("utf-8", "surrogatepass") + b"\0")

    def add_file(self, size: int) -> None:
        """Takes in the size of a file that may hold media itself; a check does not read these."""
        self._digests["media files"].update(f"{size}\0".encode())

    def fingerprints(self) -> dict[str, str]:
        """Hexadecimal digests by kind."""
        return {kind: digest.hexdigest() for kind, digest in self._digests.items()}


def _size(medium: MediaRef) -> int:
    """Bytes of a medium's file; -1 where there is none, or it is in the record itself."""
    try:
        return os.stat(medium.path).st_size if medium.path else -1
    except OSError:
        return -1


def _check(records: Records) -> None:
    """Parses every record once; sets `renamed` and the fingerprints, or raises `DataError`."""
    problems: list[str] = []
    wrong = index = 0
    seen: set[str] = set()
    digest, contents = hashlib.blake2b(digest_size=16), Contents()
    for f, rows in enumerate(records.files):
        if not len(rows):
            wrong += 1
            problems.append(f"{records.names[f]}: no records; remove it from data.files")
        if rows.unit == "row":
            contents.add_file(os.stat(records.names[f]).st_size)
        for i, raw in enumerate(rows.scan()):
            try:
                if isinstance(raw, FieldError):
                    raise raw
                sample = records.parse(f, i, raw)
            except FieldError as error:
                wrong += 1
                if len(problems) < _SHOWN:
                    problems.append(f"{records.where(f, i)}: {error}")
            else:
                identity = _unique(sample, seen, f)
                if identity != sample.id:
                    records.renamed[index] = identity
                seen.add(identity)
                digest.update(identity.encode() + b"\0")
                contents.add(sample)
            index += 1
    if wrong:
        rest = f"\n... and {wrong - _SHOWN} more" if wrong > _SHOWN else ""
        listed = "\n".join(problems[:_SHOWN])
        raise DataError(f"{wrong} problem(s) in the data files:\n{listed}{rest}")
    records.fingerprint, records.contents = digest.hexdigest(), contents.fingerprints()


def _unique(sample: Sample, seen: set[str], f: int) -> str:
    """Ids seed the draws, so no two samples share one: the later gets its place in the data."""
    if sample.id not in seen:
        return sample.id
    name, _, number = sample.source.rpartition(":")
    identity = f"{sample.id}@{Path(name).name}:{number}"
    while identity in seen:
        identity += f"#{f}"
    return identity
