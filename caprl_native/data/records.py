"""Data files -> samples. JSONL, JSON lists and Parquet are indexed; samples are read one by one.

`read_records` checks every record once, at start-up, and refuses to go on if any is wrong:
a data set with a hole in it should be mended, not trained on. (Media files are another matter:
they are opened when they are needed, see `loader.py`.)
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
import stat
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from caprl_native.data.fields import FieldError, loads
from caprl_native.data.formats import Kind, added_formats, parse_record
from caprl_native.data.parquet import UNREADABLE, ParquetRows
from caprl_native.data.question_columns import QuestionColumns
from caprl_native.data.shared_media import SharedMedia
from caprl_native.files import LFS_POINTER, PULL_IT, matching, user_path
from caprl_native.registry import PLUGINS, load_plugin
from caprl_native.types import MediaRef, Question, Sample

_SHOWN = 20

log = logging.getLogger(__name__)


class DataError(ValueError):
    """Data files are wrong; the message names file, line (or row), field, and the fix."""


class Rows(Protocol):
    """The records of one file, by position."""

    unit: str  # "line", "row" or "record"

    def __len__(self) -> int: ...
    def number(self, i: int) -> int: ...  # of record i in its file, from 1
    def scan(self) -> Iterator[Any]: ...  # every record (or its FieldError), no embedded bytes
    def read(self, i: int) -> Any: ...  # may raise FieldError


class JsonLines:
    """The non-empty lines of a JSONL file, by byte offset (16 bytes of memory per record)."""

    unit = "line"
    fix = "every line must be one complete JSON object"

    def __init__(self, path: str) -> None:
        self.path = path
        self._starts, self._numbers = array("q"), array("q")
        self._fd: int | None = None
        self._index()

    def _index(self) -> None:
        position = 0
        with open(self.path, "rb") as file:
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
        try:
            return loads(os.pread(self._fd, self._stop(i) - start, start).decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            problem = f"not UTF-8: {error.reason} at byte {error.start + 1}"
        except ValueError as error:
            problem = str(error)
        raise FieldError("record", problem, self.fix)

    def _stop(self, i: int) -> int:
        return self._starts[i + 1] if i + 1 < len(self) else self._end


# All that decides where a record of a list ends: strings, and brackets outside of them.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_BLANKS = re.compile(rb"[ \t\r\n]*")


def _past_blanks(text: mmap.mmap, position: int) -> int:
    return _BLANKS.match(text, position).end()  # type: ignore[union-attr]  # matches anywhere


class JsonArray(JsonLines):
    """The records of a JSON list, by byte offset: the file is passed once, and never held."""

    unit = "record"
    fix = "the file must be one complete JSON list of objects"

    def _index(self) -> None:
        """Finds every record's first and last byte. Raises DataError for what is no JSON list."""
        self._stops = array("q")
        with (
            open(self.path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            begin = self._after(text, text.find(b"["))
            depth, end = 0, -1
            for token in _TOKEN.finditer(text, begin):
                mark = token[0][:1]
                if depth == 0 and mark in b",]":
                    self._add(text, begin, token.start(), last=mark == b"]")
                    begin = self._after(text, token.start())
                    if mark == b"]":
                        end = token.end()
                        break
                elif mark in b"[{":
                    depth += 1
                elif mark in b"]}":
                    depth -= 1
            if end < 0 or _past_blanks(text, end) < len(text):
                problem = "the list has no end" if end < 0 else "something follows after the list"
                raise DataError(f"{self.path}: malformed JSON: {problem}; {self.fix}")

    def _after(self, text: mmap.mmap, position: int) -> int:
        return _past_blanks(text, position + 1)

    def _add(self, text: mmap.mmap, begin: int, end: int, last: bool) -> None:
        if begin == end and last and not self._starts:
            return  # an empty list
        self._starts.append(begin)
        self._stops.append(end)
        self._numbers.append(len(self._starts))

    def _stop(self, i: int) -> int:
        return self._stops[i]


@dataclass
class Records(Sequence[Sample]):
    """Samples of one or more files, read when asked for; cheap to send to another process."""

    files: list[Rows]
    parsers: list[partial[Sample]]
    names: list[str]
    renamed: dict[int, str] = field(default_factory=dict)  # ids that another record has already
    fingerprint: str = ""  # of all ids, in order
    contents: dict[str, str] = field(default_factory=dict)  # fingerprints of the rest, by kind
    plugins: tuple[str, ...] = ()  # what registers the formats: workers import it
    kept: array[int] | None = None  # places of the records that have questions left; None: all

    def __post_init__(self) -> None:
        self._ends = list(accumulate(len(rows) for rows in self.files))

    def __len__(self) -> int:
        if self.kept is not None:
            return len(self.kept)
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # no slices
        f, i = self._split(index)
        try:
            sample = self.parse(f, i, self.files[f].read(i))
        except (FieldError, OSError) as error:  # it was right at start-up
            raise DataError(f"{self.where(f, i)}: {error}; did the file change?") from error
        return replace(sample, id=self.renamed[index]) if index in self.renamed else sample

    def place(self, index: int) -> str:
        """File and line of a record, for messages."""
        return self.where(*self._split(index))

    def _split(self, index: int) -> tuple[int, int]:
        """The file that holds a record, and its position there."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        if self.kept is not None:
            index = self.kept[index]
        f = bisect_right(self._ends, index)
        return f, index - (self._ends[f - 1] if f else 0)

    def parse(self, f: int, i: int, raw: Any) -> Sample:
        _import_once(self.plugins)
        number, name = self.files[f].number(i), self.names[f]
        return self.parsers[f](
            raw, source=f"{name}:{number}", default_id=f"{Path(name).stem}:{number}"
        )

    def where(self, f: int, i: int) -> str:
        return f"{self.names[f]}: {self.files[f].unit} {self.files[f].number(i)}"


@cache
def _import_once(plugins: tuple[str, ...]) -> None:
    for plugin in plugins:
        load_plugin(plugin)


def read_records(
    files: Sequence[str | os.PathLike[str]],
    media_root: str | os.PathLike[str] = "",
    *,
    kind: Kind = "questions",
    prompt_override: str = "",
    max_media: int = 0,
    columns: QuestionColumns | None = None,
    shared: SharedMedia | None = None,
) -> Records:
    """Opens data files (JSONL, JSON lists or Parquet, told apart by content).

    In their names `~` and `*` are expanded. Relative media paths start from `media_root`, or from
    the data file's own folder if it is empty. More than `max_media` of them in a record are wrong
    (0: any number). Records of which `columns` leave no question are left out. `shared` is told
    which media each record has. Raises `DataError` with the first 20 of all problems found in any
    file.
    """
    paths = [path for name in files for path in _expanded(os.fspath(name))]
    if not paths:
        raise DataError("no data files are given; set data.files")
    root = user_path(os.fspath(media_root))
    parsers = [
        partial(
            parse_record,
            kind=kind,
            media_root=root or os.path.dirname(path),
            prompt_override=prompt_override,
            max_media=max_media,
            columns=columns,
        )
        for path in paths
    ]
    plugins = tuple(PLUGINS) if added_formats() else ()
    records = Records([open_file(path) for path in paths], parsers, paths, plugins=plugins)
    _check(records, kind != "questions" or not columns, shared)
    return records


def _expanded(name: str) -> list[str]:
    if not (found := matching(name)):
        raise DataError(f"{name}: no file matches")
    return found


def open_file(path: str) -> Rows:
    """The records of a data file, told apart by its content. Raises `DataError`."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)  # reading from a pipe would wait for ever
        with open(path if regular else os.devnull, "rb") as file:
            start = file.read(256)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path:.200}: cannot be read: {reason}; check data.files") from error
    if not regular:
        raise DataError(f"{path}: is not a file; check data.files")
    if start.startswith(LFS_POINTER):
        raise DataError(f"{path}: {PULL_IT}")
    if start[:4] == b"PAR1":
        try:
            return ParquetRows(path)
        except UNREADABLE as error:
            raise DataError(f"{path}: damaged Parquet file: {error}") from error
    if path.endswith(".parquet"):
        raise DataError(f"{path}: damaged Parquet file: it does not begin as one")
    if start[:2] == b"\x1f\x8b" or start[:4] == b"\x28\xb5\x2f\xfd":
        raise DataError(f"{path}: is compressed; unpack it first")
    is_list = start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    return JsonArray(path) if is_list else JsonLines(path)


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
            "questions": _as_weighted(sample.questions),
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


def _as_weighted(questions: Sequence[Question]) -> Any:
    """Questions and, where they differ, their weights, which are no part of a question's text."""
    weights = [question.weight for question in questions]
    return questions if set(weights) <= {1.0} else (questions, weights)


def _size(medium: MediaRef) -> int:
    """Bytes of a medium's file; -1 where there is none, or it is in the record itself."""
    try:
        return os.stat(medium.path).st_size if medium.path else -1
    except OSError:
        return -1


def _check(records: Records, may_lack_questions: bool, shared: SharedMedia | None) -> None:
    """Parses every record once; sets what follows from it, or raises `DataError`."""
    problems: list[str] = []
    kept = array("q")
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
                if sample.questions or may_lack_questions:
                    identity = _unique(sample, seen, f)
                    if identity != sample.id:
                        records.renamed[len(kept)] = identity
                    kept.append(index)
                    seen.add(identity)
                    digest.update(identity.encode() + b"\0")
                    contents.add(sample)
                    if shared is not None:
                        shared.add(identity, sample.media)
            index += 1
    if wrong:
        rest = f"\n... and {wrong - _SHOWN} more" if wrong > _SHOWN else ""
        listed = "\n".join(problems[:_SHOWN])
        raise DataError(f"{wrong} problem(s) in the data files:\n{listed}{rest}")
    records.fingerprint, records.contents = digest.hexdigest(), contents.fingerprints()
    if len(kept) < index:
        _leave_out(records, kept)


def _leave_out(records: Records, kept: array[int]) -> None:
    """Raises `DataError` where no record would be left."""
    if not kept:
        raise DataError(
            f"{records.names[0]}: data.max_blind_accuracy leaves no question of any record"
        )
    log.warning(
        "data.max_blind_accuracy leaves out %d of %d records, which have no other questions",
        len(records) - len(kept),
        len(records),
    )
    records.kept = kept


def _unique(sample: Sample, seen: set[str], f: int) -> str:
    """Ids seed the draws, so no two samples share one: the later gets its place in the data."""
    if sample.id not in seen:
        return sample.id
    name, _, number = sample.source.rpartition(":")
    identity = f"{sample.id}@{Path(name).name}:{number}"
    while identity in seen:
        identity += f"#{f}"
    return identity
