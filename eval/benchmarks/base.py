"""What a benchmark is: how its files are read, its questions asked, and its answers scored.

A benchmark of one's own is one file with a subclass of `Benchmark` that is `@registered`. It is
found in this folder, or because the config names its file under `plugins`; `[benchmarks.<name>]`
gives it its files.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow.parquet

from caprl_native.data.choices import LETTERS
from caprl_native.data.fields import DataError, FieldError, check_texts
from caprl_native.data.record_files import JsonLines
from caprl_native.registry import Registry
from caprl_native.rewards.prompts import (
    ANSWER_PREFIX,
    CANNOT_ANSWER,
    CAPTION_OF,
    lettered,
    reader_messages,
)
from eval.benchmarks.tables import is_quoted, rows_of
from eval.items import CAPTION, Broken, Item, ToJudge, Verdict
from eval.scoring.letters import choice_letter

Rule = Literal["official", "caprl"]

SYSTEM = (
    "You answer questions about a picture or a video that you cannot see. All you know is its "
    "caption."
)
SUBTITLES = "Subtitles:"
_PARQUET_ROWS = 256  # that are in memory at a time, with their images
BRIEFLY = "Answer from the caption alone, with the answer itself and nothing else."
LOOKING = "Answer with the answer itself and nothing else."
LETTER = "Answer with the letter of one choice."


@dataclass(frozen=True)
class Files:
    """Where a benchmark's data are: `[benchmarks.<name>]` of the config."""

    paths: tuple[Path, ...]
    media_root: Path | None
    subtitles: Path | None = None
    allow_outside: bool = False

    def medium(self, file: Path, *names: str) -> str:
        """The path of a medium that `file` names: of several names the first that exists.

        Several are given where the authors' archives and common copies lie in other folders.
        Without a media root they start at the file's folder, or at the one above it. Raises
        `FieldError` for a name that leads out of them.
        """
        for name in names:
            self.check_inside(file, name)
        paths = [root / name for root in self._roots(file) for name in names]
        return str(next((path for path in paths if path.exists()), paths[0]))

    def check_inside(self, file: Path, name: str) -> None:
        """Raises `FieldError` for a medium's name that leads out of the folders of media.

        Data that somebody else wrote may name any file of this machine; a link that lies in the
        folders was put there by whoever filled them.
        """
        roots = self._roots(file)
        if not (self.allow_outside or any(_is_inside(root, name, roots) for root in roots)):
            where = " or ".join(str(root) for root in dict.fromkeys(roots))
            raise FieldError(
                "path",
                f"{name!r:.200} leads out of {where}",
                "move the medium there, or allow it with --allow-outside",
            )

    def _roots(self, file: Path) -> list[Path]:
        return [self.media_root] if self.media_root else [file.parent, file.parent.parent]


def _is_inside(root: Path, name: str, roots: Sequence[Path]) -> bool:
    """Whether `name`, seen from `root`, lies in one of `roots`."""
    if ".." not in Path(name).parts:
        plain = Path(os.path.abspath(root / name))
        if any(plain.is_relative_to(os.path.abspath(folder)) for folder in roots):
            return True
    real = (root / name).resolve()  # "link/.." is not where it seems to be
    return any(real.is_relative_to(folder.resolve()) for folder in roots)


@dataclass(frozen=True)
class Row:
    """One record of an annotation file, and where it stands ("file:line" or "file:key")."""

    value: Any
    source: str
    file: Path

    @property
    def name(self) -> str:
        """An id for a record that has none: the file's stem and the record's line or key."""
        return f"{self.file.stem}:{self.source.removeprefix(f'{self.file}:')}"

    def text(self, *names: str, default: str | None = None) -> str:
        """The first of these fields that is there, as a text without surrounding blanks.

        Raises `FieldError` where none is, or where it is neither a text nor a number.
        """
        for name in names:
            value = self.value.get(name)
            if value is None or (isinstance(value, float) and value != value):
                continue
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise FieldError(name, f"expected a text, got {value!r:.60}")
            if str(value).strip():
                return str(value).strip()
        if default is None:
            raise FieldError(names[0], "missing or empty", f"give {' or '.join(names)}")
        return default


class Benchmark(ABC):
    """One benchmark. The class's docstring gives its source format, its rule and its citation."""

    name: ClassVar[str]
    title: ClassVar[str]
    modality: ClassVar[Literal["image", "video", "both"]]
    metric: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "%"  # "%": scores are shares; "points": they are as they are
    full: ClassVar[float] = 1.0  # what a wholly right answer scores
    headline: ClassVar[tuple[str, ...]] = ()  # of `metrics` those that papers report first
    rules: ClassVar[tuple[Rule, ...]] = ("official",)
    judged_by_model: ClassVar[bool] = False  # whether some answers may need a judge
    asks_reader: ClassVar[bool] = True  # else the captions themselves are scored
    instruction: ClassVar[str] = BRIEFLY  # how an open question is to be answered
    direct_instruction: ClassVar[str] = LOOKING  # the same, with the media in view
    caption_text: ClassVar[str] = CAPTION  # what the media stand for in an item's `chat`

    def described(self) -> dict[str, Any]:
        """What a summary says of it, whatever was measured."""
        names = ("title", "modality", "metric", "unit", "full")
        return {name: getattr(self, name) for name in names} | {"headline": list(self.headline)}

    @abstractmethod
    def item(self, row: Row, files: Files) -> Item | Sequence[Item | Broken]:
        """The item, or items, of a row. Raises `FieldError` for a row that is none.

        Of several items those that are none are `Broken`.
        """

    def read(self, files: Files) -> Iterator[Item | Broken]:
        """All items of the files, and their broken rows. Raises `DataError` for a broken file.

        An id that an earlier item has already gets the record's place in the data.
        """
        seen: set[str] = set()
        for path in files.paths:
            for row in self.rows(path):
                if isinstance(row, Broken):
                    yield row
                    continue
                for found in self._parsed(row, files):
                    if isinstance(found, Item):
                        found = replace(_unique(found, row, seen), record=row.value)
                    yield found

    def _parsed(self, row: Row, files: Files) -> Sequence[Item | Broken]:
        try:
            if not isinstance(row.value, dict):
                raise FieldError("record", f"expected an object, got {row.value!r:.60}")
            check_texts(row.value)
            found = self.item(row, files)
        except FieldError as error:
            return [Broken(row.source, str(error))]
        except OSError as error:  # of a name that is none, such as an image's bytes as a text
            return [Broken(row.source, f"media: {error.strerror}")]
        except Exception as error:  # of a benchmark that did not expect this row: one row is lost
            return [Broken(row.source, f"record: {type(error).__name__}: {error!s:.200}")]
        return [found] if isinstance(found, Item) else found

    def rows(self, path: Path) -> Iterator[Row | Broken]:
        """The records of one file; told apart by its name: JSON, JSONL, TSV, CSV or Parquet."""
        return read_rows(path)

    def chat(self, item: Item, caption: str) -> list[dict[str, Any]]:
        """What the reader is asked about a caption."""
        caption = caption.strip()
        if item.subtitles:
            caption += f"\n\n{SUBTITLES}\n{item.subtitles}"
        if item.chat:
            return [{**t, "content": t["content"].replace(CAPTION, caption)} for t in item.chat]
        if item.choices:
            return reader_messages(item.modality, caption, item.question, list(item.choices))
        return open_question(item.modality, caption, item.question, self.instruction)

    def direct_chat(self, item: Item) -> tuple[dict[str, Any], ...]:
        """What the captioner is asked with the media in view, in the form of `Sample`'s messages.

        "It cannot be answered from the caption" is no choice there.
        """
        media: list[dict[str, str]] = [{"type": m.kind} for m in item.media]
        if item.chat:
            return tuple(self._seen(turn, media) for turn in item.chat)
        if item.choices:
            shown = list(item.choices)
            if shown[-1] == CANNOT_ANSWER and item.answer != LETTERS[len(shown) - 1]:
                shown.pop()
            choices = lettered(shown)
            request = f"{item.question}\n{choices}\n\n{LETTER}"
        else:
            request = f"{item.question}\n\n{self.direct_instruction}"
        if item.subtitles:
            request = f"{SUBTITLES}\n{item.subtitles}\n\n{request}"
        return ({"role": "user", "content": [*media, {"type": "text", "text": request}]},)

    def _seen(self, turn: dict[str, str], media: list[dict[str, str]]) -> dict[str, Any]:
        """A turn with its media where the caption would be."""
        before, here, after = turn["content"].partition(self.caption_text)
        texts = [[{"type": "text", "text": text}] if text else [] for text in (before, after)]
        return {"role": turn["role"], "content": [*texts[0], *(media if here else []), *texts[1]]}

    def prefix(self, item: Item) -> str:
        """How the reader's turn is opened where its engine can go on with an opened turn."""
        return ANSWER_PREFIX if item.choices and not item.chat else ""

    @abstractmethod
    def score(self, item: Item, output: str, rule: Rule) -> Verdict | ToJudge:
        """What the reader's answer is worth by the benchmark's own rule, or by the reference's.

        `output` is the caption where the reader is not asked (`asks_reader`).
        """

    def judged(self, item: Item, output: str, reply: str) -> Verdict | None:
        """The verdict in a judge's reply; None if it has none."""
        raise NotImplementedError(f"{self.name} has no judge")

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        """Further figures over all captions' verdicts (None: a judgement that failed).

        They are shown as they are: in per cent where `unit` is "%".
        """
        return {}


BENCHMARKS: Registry[Benchmark] = Registry("benchmark", "eval.benchmarks")
B = TypeVar("B", bound=type[Benchmark])


def registered(kind: B) -> B:
    """Makes a benchmark known under its name. Raises ValueError where another module's has it."""
    BENCHMARKS.add(kind.name, kind())
    return kind


def _unique(item: Item, row: Row, seen: set[str]) -> Item:
    """The item, its id extended by its place in the data until no earlier item has it."""
    name = item.id
    while name in seen:
        name = f"{name}@{row.name}"
    seen.add(name)
    return item if name == item.id else replace(item, id=name)


def open_question(
    modality: Literal["image", "video"], caption: str, question: str, instruction: str
) -> list[dict[str, Any]]:
    """A chat about a question without choices."""
    user = f"{CAPTION_OF[modality]}\n{caption}\n\nQuestion: {question}\n\n{instruction}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def by_letter(item: Item, output: str) -> Verdict:
    """1 for the gold letter, 0 for another one or none."""
    said = choice_letter(output, dict(zip(LETTERS, item.choices, strict=False)))
    return Verdict(float(said == item.answer), said)


# --- files ------------------------------------------------------------------------------------


def read_rows(path: Path) -> Iterator[Row | Broken]:
    """The records of a file, each with its line, number or key. Raises `DataError`."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot be read; valid: {', '.join(sorted(_READERS))}")
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path}: is no regular file")
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def read_json_lines(path: Path) -> Iterator[Row | Broken]:
    """The records of a file with a JSON value on each line."""
    lines = JsonLines(str(path))
    for i in range(len(lines)):
        source = f"{path}:{lines.number(i)}"
        try:
            yield Row(lines.read(i), source, path)
        except FieldError as error:
            yield Broken(source, str(error))


def _json(path: Path) -> Iterator[Row | Broken]:
    """A list of records, or an object with a record under each key (its source is the key)."""
    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except RecursionError as error:
        raise DataError(f"{path}: malformed JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: malformed JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason} at byte {error.start + 1}") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: malformed JSON: {error}") from error
    if not isinstance(value, list | dict):
        raise DataError(f"{path}: expected a list or an object of records")
    pairs = value.items() if isinstance(value, dict) else enumerate(value, 1)
    for key, record in pairs:
        yield Row(record, f"{path}:{key}", path)


def _table(separator: str) -> Callable[[Path], Iterator[Row | Broken]]:
    def rows(path: Path) -> Iterator[Row | Broken]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                quoted = is_quoted(file, separator)
                file.seek(0)
                table = rows_of(file, separator, quoted)
                header = next(table, None)
                for line in table:
                    source = f"{path}:{line.number}"
                    if line.problem or header is None:
                        yield Broken(source, line.problem)
                    else:
                        yield Row(dict(zip(header.fields, line.fields, strict=True)), source, path)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8: {error.reason}") from error

    return rows


def _parquet(path: Path) -> Iterator[Row | Broken]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield Row(record, f"{path}:{number}", path)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{path}: damaged Parquet file: {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[Row | Broken]]] = {
    ".json": _json,
    ".jsonl": read_json_lines,
    ".tsv": _table("\t"),
    ".csv": _table(","),
    ".parquet": _parquet,
}
