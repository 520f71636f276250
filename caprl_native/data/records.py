"""Data files -> samples, read one by one.

`read_records` checks every record once, at start-up, and refuses to go on if any is wrong, or
leaves it out where that is wished (`invalid.py`). Media files are another matter: they are opened
when they are needed, see `loader.py`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from caprl_native.data.carried import Link
from caprl_native.data.contents import Contents
from caprl_native.data.fields import DataError, FieldError, QuestionError, UnreadableFile
from caprl_native.data.formats import Kind, added_formats, parse_record
from caprl_native.data.invalid import (
    NO_QUESTION_LEFT,
    SHOWN,
    Dropped,
    DropReport,
    Invalid,
    WrongQuestion,
    listed,
)
from caprl_native.data.parquet import ParquetRows
from caprl_native.data.question_columns import QuestionColumns
from caprl_native.data.record_files import Rows, open_file
from caprl_native.data.shared_media import SharedMedia
from caprl_native.files import matching, user_path
from caprl_native.registry import PLUGINS, load_plugin
from caprl_native.types import Sample

__all__ = ["DataError", "ListedRecord", "Records", "read_records"]

log = logging.getLogger(__name__)

BAR_AFTER_S = 3.0  # a reading that takes longer shows how far it is


@dataclass(frozen=True)
class ListedRecord:
    """A record that was kept: where it is, as it is written, and its sample.

    `numbers`: the places of the sample's questions in the record's list of `count`.
    """

    file: int
    index: int
    raw: Any
    sample: Sample
    numbers: list[int]
    count: int


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
    kept: array[int] | None = None  # places of the records that were not left out; None: all
    stages: array[int] | None = None  # of the records that are kept; None: there is no curriculum
    links: list[Link | None] | None = None  # theirs to one another; None: there are none
    invalid: Invalid = Invalid()
    dropped: DropReport = field(default_factory=DropReport)

    def __post_init__(self) -> None:
        self._ends = list(accumulate(len(rows) for rows in self.files))

    def __getstate__(self) -> dict[str, Any]:
        # A worker has no use for the lists.
        return self.__dict__ | {"dropped": DropReport(), "stages": None, "links": None}

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

    def keep_decoded(self, folder: Path) -> None:
        """Records will be read at random: what is embedded in Parquet is kept there, decoded."""
        for rows in self.files:
            if isinstance(rows, ParquetRows):
                rows.keep_decoded(folder)

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

    def file_numbers(self) -> np.ndarray:
        """`[N]`: of each record, which of the files it is in."""
        kept = np.arange(len(self)) if self.kept is None else np.asarray(self.kept)
        return np.searchsorted(np.asarray(self._ends), kept, side="right")

    def parse(self, f: int, i: int, raw: Any, dropped: list[WrongQuestion] | None = None) -> Sample:
        """The sample of a record; into `dropped` go the questions that are left out of it."""
        _import_once(self.plugins)
        number, name = self.files[f].number(i), self.names[f]
        if dropped is None and self.invalid.questions == "drop":
            dropped = []
        return self.parsers[f](
            raw,
            source=f"{name}:{number}",
            default_id=f"{Path(name).stem}:{number}",
            dropped=dropped if self.invalid.questions == "drop" else None,
        )

    def listing(self) -> Iterator[ListedRecord]:
        """All records that were kept, in order, without embedded files' bytes.

        Raises:
            DataError: a file has changed.
        """
        index, position, kept = 0, 0, None if self.kept is None else set(self.kept)
        for f, rows in enumerate(self.files):
            for i, raw in enumerate(rows.scan()):
                if kept is None or position in kept:
                    yield self._listed(f, i, raw, self.renamed.get(index))
                    index += 1
                position += 1

    def _listed(self, f: int, i: int, raw: Any, name: str | None) -> ListedRecord:
        dropped: list[WrongQuestion] = []
        try:
            if isinstance(raw, FieldError):
                raise raw
            sample = self.parse(f, i, raw, dropped)
        except FieldError as error:
            raise DataError(f"{self.where(f, i)}: {error}") from error
        count, out = len(sample.questions) + len(dropped), {wrong.number for wrong in dropped}
        sample = sample if name is None else replace(sample, id=name)
        return ListedRecord(f, i, raw, sample, [n for n in range(count) if n not in out], count)

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
    invalid: Invalid | None = None,
    curriculum: str = "",
    progress: bool = False,
) -> Records:
    """Opens data files (JSONL, JSON lists or Parquet, told apart by content).

    In their names `~` and `*` are expanded. Relative media paths start from `media_root`, or from
    the data file's own folder if it is empty. More than `max_media` of them in a record are wrong
    (0: any number). Records of which `columns` leave no question are left out; what is `invalid`
    ends the reading (None), or is left out, too. `shared` is told which media each record has.
    `curriculum`: the column that has the stage of each record. `progress`: a terminal sees how far
    a long reading is.
    Raises `DataError` with the first 20 of all problems found in any file, or of all that was left
    out where that is too much.
    """
    invalid = invalid or Invalid()
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
            no_answer=invalid.no_answer,
            curriculum=curriculum,
        )
        for path in paths
    ]
    plugins = tuple(PLUGINS) if added_formats() else ()
    rows = [open_file(path) for path in paths]
    stages = array("i") if curriculum else None
    records = Records(rows, parsers, paths, plugins=plugins, invalid=invalid, stages=stages)
    _Check(records, may_lack_questions=kind != "questions", shared=shared).run(progress)
    return records


def _expanded(name: str) -> list[str]:
    if not (found := matching(name)):
        raise DataError(f"{name}: no file matches")
    return found


class _Check:
    """Parses every record once; sets what follows from it, or raises `DataError`."""

    def __init__(
        self, records: Records, may_lack_questions: bool, shared: SharedMedia | None
    ) -> None:
        self.records, self.may_lack_questions, self.shared = records, may_lack_questions, shared
        self.problems: list[str] = []
        self.wrong = self.unasked = 0
        self.kept = array("q")
        self.links: list[Link | None] = []
        self.seen: set[str] = set()
        self.digest, self.contents = hashlib.blake2b(digest_size=16), Contents()

    def run(self, progress: bool) -> None:
        index = 0
        for f, rows in enumerate(self.records.files):
            if not len(rows):
                self._fail(f"{self.records.names[f]}: no records; remove it from data.files")
            if rows.unit == "row":
                self.contents.add_file(os.stat(self.records.names[f]).st_size)
            bar = tqdm(
                rows.scan(),
                desc=os.path.basename(self.records.names[f]),
                total=len(rows),
                unit=f" {rows.unit}s",
                delay=BAR_AFTER_S,
                disable=None if progress else True,  # None: where there is no terminal
            )
            for i, raw in enumerate(bar):
                self._look_at(f, i, raw, index)
                index += 1
        self._finish(index)

    def _look_at(self, f: int, i: int, raw: Any, index: int) -> None:
        report, wrong = self.records.dropped, []  # type: tuple[DropReport, list[WrongQuestion]]
        report.records += 1
        try:
            if isinstance(raw, FieldError):
                raise raw
            sample = self.records.parse(f, i, raw, wrong)
        except FieldError as error:
            never_dropped = isinstance(error, UnreadableFile | QuestionError)
            if self.records.invalid.records == "error" or never_dropped:
                self._fail(f"{self.records.where(f, i)}: {error}")
            else:
                self._drop(f, i, None, error.reason, str(error))
            return
        self._count(f, i, sample, wrong)
        if sample.questions or self.may_lack_questions:
            self._keep(f, sample, index)

    def _count(self, f: int, i: int, sample: Sample, wrong: list[WrongQuestion]) -> None:
        """Takes in which of a record's questions are left out, and whether it is for that."""
        for number, error in wrong:
            self._drop(f, i, number, error.reason, str(error))
        count = len(sample.questions) + len(wrong)
        self.records.dropped.questions += count
        if not (sample.questions or self.may_lack_questions):
            if wrong:
                self._drop(f, i, None, NO_QUESTION_LEFT, f"none of {count} questions is left")
            else:
                self.unasked += 1

    def _keep(self, f: int, sample: Sample, index: int) -> None:
        identity = _unique(sample, self.seen, f)
        if identity != sample.id:
            self.records.renamed[len(self.kept)] = identity
        self.kept.append(index)
        self.seen.add(identity)
        self.digest.update(identity.encode() + b"\0")
        self.contents.add(sample)
        self.links.append(Link.of(sample.carried))
        if self.records.stages is not None:
            self.records.stages.append(sample.stage)
        if self.shared is not None:
            self.shared.add(identity, sample.media)

    def _fail(self, problem: str) -> None:
        self.wrong += 1
        if len(self.problems) < SHOWN:
            self.problems.append(problem)

    def _drop(self, f: int, i: int, question: int | None, reason: str, problem: str) -> None:
        rows, name = self.records.files[f], self.records.names[f]
        item = Dropped(name, rows.unit, rows.number(i), question, reason, problem)
        self.records.dropped.items.append(item)

    def _finish(self, count: int) -> None:
        records = self.records
        if self.wrong:
            shown = "\n".join(listed(self.problems, self.wrong))
            raise DataError(f"{self.wrong} problem(s) in the data files:\n{shown}")
        if excess := records.dropped.excess(records.invalid.max_share):
            raise DataError(excess)
        records.fingerprint = self.digest.hexdigest()
        records.contents = self.contents.fingerprints()
        records.links = self.links if any(self.links) else None
        if len(self.kept) == count:
            return
        if not self.kept:
            problem = (
                "data.max_blind_accuracy leaves no question of any record"
                if self.unasked
                else f"no record is left: {records.dropped.summary()}"
            )
            raise DataError(f"{records.names[0]}: {problem}")
        if self.unasked:
            log.warning(
                "data.max_blind_accuracy leaves out %d of %d records, which have no other "
                "questions",
                self.unasked,
                count,
            )
        records.kept = self.kept


def _unique(sample: Sample, seen: set[str], f: int) -> str:
    """Ids seed the draws, so no two samples share one: the later gets its place in the data."""
    if sample.id not in seen:
        return sample.id
    name, _, number = sample.source.rpartition(":")
    identity = f"{sample.id}@{Path(name).name}:{number}"
    while identity in seen:
        identity += f"#{f}"
    return identity
