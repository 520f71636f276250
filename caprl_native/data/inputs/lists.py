"""Lists of media, row by row: JSONL, JSON, Parquet, or a path to a line. No list is held."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from caprl_native.data.fields import DataError, FieldError, loads
from caprl_native.data.inputs.rows import entry_of, problem
from caprl_native.data.listing import Entry
from caprl_native.data.parquet import UNREADABLE, ParquetRows
from caprl_native.data.record_files import records_of_list
from caprl_native.files import LFS_POINTER, PULL_IT

_BOM = b"\xef\xbb\xbf"
_LINE_FIX = "a line is a path, or one complete JSON object"


class ListFile:
    """A list in a file. Raises DataError where it cannot be read at all."""

    def __init__(self, path: str, root: str) -> None:
        """`root`: what relative paths start from; empty: the folder of the list."""
        self.path = path
        self.root = root or os.path.dirname(path)
        try:
            with open(path, "rb") as file:
                start = file.read(256)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path:.200}: cannot be read: {reason}") from error
        self.size, self.read = max(1, os.path.getsize(path)), 0
        if start.startswith(LFS_POINTER):
            raise DataError(f"{path}: {PULL_IT}")
        if start[:2] == b"\x1f\x8b" or start[:4] == b"\x28\xb5\x2f\xfd":
            raise DataError(f"{path}: is compressed; unpack it first")
        self._rows = self._reader(start)

    def _reader(self, start: bytes) -> Any:
        if start[:4] == b"PAR1":
            try:
                rows = ParquetRows(self.path)
            except UNREADABLE as error:
                raise DataError(f"{self.path}: damaged Parquet file: {error}") from error
            return lambda: self._of_parquet(rows)
        if self.path.endswith(".parquet"):
            raise DataError(f"{self.path}: damaged Parquet file: it does not begin as one")
        is_list = start.removeprefix(_BOM).lstrip().startswith(b"[")
        return self._of_array if is_list else self._of_lines

    @property
    def share(self) -> float:
        """How much of it has been read, from 0 to 1."""
        return min(1.0, self.read / self.size)

    def entries(self) -> Iterator[Entry]:
        """Every row, in order."""
        yield from self._rows()
        self.read = self.size

    def _of_lines(self) -> Iterator[Entry]:
        with open(self.path, "rb") as file:
            for entry, read in entries_of_lines(file, self.path, self.root):
                self.read = read
                yield entry

    def _of_array(self) -> Iterator[Entry]:
        with (
            open(self.path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            number, found = 0, records_of_list(text)
            while True:
                where = f"{self.path}: record {number + 1}"
                try:
                    begin, end = next(found)
                except StopIteration:
                    return
                except ValueError as error:
                    yield problem(where, where, f"malformed JSON: {error}")
                    return
                number, self.read = number + 1, end
                yield _parsed(text[begin:end], where, self.root)

    def _of_parquet(self, rows: ParquetRows) -> Iterator[Entry]:
        for i in range(len(rows)):
            where = f"{self.path}: row {rows.number(i)}"
            self.read = self.size * i // len(rows)
            try:
                row = rows.read(i)
            except FieldError as error:
                yield problem(where, where, str(error))
                continue
            row = {name: value for name, value in row.items() if value is not None}
            yield entry_of(row, source=where, root=self.root)


def entries_of_lines(file: BinaryIO, name: str, root: str) -> Iterator[tuple[Entry, int]]:
    """The entries of a list's lines, and the bytes up to each of them."""
    read = 0
    for number, line in enumerate(file, 1):
        read += len(line)
        text = line.removeprefix(_BOM).strip()
        if text:
            yield _parsed(text, f"{name}:{number}", root), read


def entries_of_input(root: str) -> Iterator[Entry]:
    """The entries of a list on standard input."""
    for entry, _ in entries_of_lines(sys.stdin.buffer, "<stdin>", root):
        yield entry


def _parsed(text: bytes, where: str, root: str) -> Entry:
    try:
        decoded = text.decode()
        row = loads(decoded) if decoded[:1] in '{["' else decoded
    except UnicodeDecodeError as error:
        return problem(where, where, f"not UTF-8: {error.reason} at byte {error.start + 1}")
    except ValueError as error:
        return problem(where, where, f"{error}; {_LINE_FIX}")
    return entry_of(row, source=where, root=root)
