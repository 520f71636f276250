"""A chunk of a job's input: what became of its entries, as lines in memory and in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from caprl_native.data.fields import DataError
from caprl_native.data.listing import Entry
from caprl_native.inference.store import key_of
from caprl_native.types import MediaRef


@dataclass(frozen=True)
class JobResult:
    """What became of an entry: a record, or the reason why there is none."""

    entry: Entry
    record: dict[str, Any] | None = None
    failure: str = ""


@dataclass(frozen=True)
class Line:
    """What became of the entry at `number` of its chunk.

    `same_as`: the position in the whole input of the entry whose result it shares. `reason`: the
    failure without what is this entry's alone, by which failures are counted.
    """

    number: int
    key: str
    entry: dict[str, Any]
    record: dict[str, Any] | None = None
    failure: str = ""
    reason: str = ""
    same_as: int | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, text: bytes) -> Line:
        """Raises ValueError, TypeError for what is no line."""
        return cls(**json.loads(text))

    def at(self, number: int) -> Line:
        """The same at another place."""
        return replace(self, number=number)

    def encoded(self) -> bytes:
        """Its text, with the newline."""
        given = {
            name: value
            for name, value in vars(self).items()
            if name == "record" and value is not None or value not in (None, "", {})
        }
        return json.dumps(given, default=str).encode() + b"\n"

    def result(self, owner: Line) -> JobResult:
        """This result, as that of the entry of `owner`."""
        return JobResult(_entry(owner.entry), self.record, self.failure)


def described(entry: Entry) -> dict[str, Any]:
    """An entry as a line holds it: all but the bytes of embedded media."""
    media = [
        {name: value for name, value in asdict(replace(m, data=None)).items() if value is not None}
        for m in entry.media
    ]
    return {"id": entry.id, "media": media, "columns": entry.columns, "source": entry.source}


def _entry(about: dict[str, Any]) -> Entry:
    media = tuple(MediaRef(**medium) for medium in about["media"])
    return Entry(about["id"], media, about["columns"], about["source"])


def whole_lines(path: Path) -> Iterator[Line]:
    """The lines of a chunk's file; one that a kill or a full disk cut short is none.

    Raises:
        DataError: another line is damaged.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.endswith(b"\n"):
                try:
                    yield Line.of(text)
                except (TypeError, ValueError) as error:
                    why = "a damaged line; remove it, and what it held is made again"
                    raise DataError(f"{path}:{number}: {why}") from error


class Chunk:
    """The entries of a chunk; those that are done have a line and are not held any more."""

    def __init__(
        self, number: int, entries: Sequence[Entry], keys: Sequence[str], folder: Path
    ) -> None:
        self.number, self.keys = number, tuple(keys)
        self.inputs = key_of(*keys)
        self.wanted = dict(enumerate(entries))
        self.lines: dict[int, Line] = {}
        self.left_out = 0  # entries that this run leaves to the next one
        self.open_path = folder / "open" / f"{number:08d}.jsonl"
        self.closed_path = self.path_in(folder, number)
        self._file: BinaryIO | None = None

    @staticmethod
    def path_in(folder: Path, number: int) -> Path:
        """Of a complete chunk; a thousand to a folder."""
        return folder / "chunks" / f"{number // 1000:03d}" / f"{number:08d}.jsonl"

    @property
    def is_complete(self) -> bool:
        """Whether every entry has a line."""
        return len(self.lines) == len(self.keys)

    def read_open(self) -> list[Line]:
        """The lines that an earlier run left in either file."""
        return [*whole_lines(self.closed_path), *whole_lines(self.open_path)]

    def read_closed(self) -> Iterator[Line]:
        return whole_lines(self.closed_path)

    def restore(self, line: Line) -> bool:
        """Takes a line of an earlier run; False where it is not of these entries, or not news."""
        at_home = line.number < len(self.keys) and self.keys[line.number] == line.key
        if not at_home or line.number in self.lines:
            return False
        self.lines[line.number] = line
        self.wanted.pop(line.number)
        return True

    def append(self, line: Line) -> None:
        """It is in the file when this returns."""
        if self._file is None:
            # Anew: a line that was cut short must not swallow the next one.
            self.write_open(self.lines.values())
            self._file = self.open_path.open("ab", buffering=0)
        text = line.encoded()
        if self._file.write(text) != len(text):  # a full disk may take a part
            raise OSError(f"{self.open_path}: a line was not written as a whole")
        self.lines[line.number] = line
        self.wanted.pop(line.number)

    def write_open(self, lines: Iterable[Line]) -> None:
        """Replaces the file of what is not complete."""
        _write(self.open_path, lines)

    def leave(self) -> None:
        """One more entry is left to the next run; with the last one the file is closed."""
        self.left_out += 1
        if self.left_out == len(self.wanted):
            self._close_file()

    def close(self) -> str:
        """Writes the complete chunk in the input's order; returns the file's digest."""
        self._close_file()
        self.closed_path.parent.mkdir(parents=True, exist_ok=True)
        return _write(self.closed_path, (self.lines[i] for i in range(len(self.keys))))

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _write(path: Path, lines: Iterable[Line]) -> str:
    """The file appears as a whole, on the disk and not in its cache alone; returns its digest."""
    digest, temporary = hashlib.blake2b(digest_size=12), path.with_suffix(".part")
    with temporary.open("wb") as file:
        for line in lines:
            text = line.encoded()
            digest.update(text)
            file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return digest.hexdigest()
