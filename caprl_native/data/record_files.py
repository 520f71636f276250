"""Data files as rows: JSONL, JSON lists and Parquet, indexed, told apart by content."""

from __future__ import annotations

import mmap
import os
import re
import stat
import weakref
from array import array
from collections.abc import Iterator
from typing import Any, Protocol

from caprl_native.data.fields import DataError, FieldError, loads
from caprl_native.data.parquet import UNREADABLE, ParquetRows
from caprl_native.files import LFS_POINTER, PULL_IT


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


# What decides where a record of a list ends: strings, and what stands outside of them: commas and
# brackets between records, the next bracket within one.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+[\[\]{}]', re.DOTALL)
_BLANKS = re.compile(rb"[ \t\r\n]*")


def _past_blanks(text: mmap.mmap, position: int) -> int:
    return _BLANKS.match(text, position).end()  # type: ignore[union-attr]  # matches anywhere


def records_of_list(text: mmap.mmap) -> Iterator[tuple[int, int]]:
    """The first byte of each record of a JSON list, and the one after its last.

    Raises:
        ValueError: the text is no complete list.
    """
    at = begin = _past_blanks(text, text.find(b"[") + 1)
    depth = number = 0
    while token := _TO_BRACKET.match(text, at) if depth else _TOKEN.search(text, at):
        at = token.end()
        mark = text[at - 1 : at]
        if depth == 0 and mark in b",]":
            if begin < at - 1 or mark == b"," or number:
                yield begin, at - 1
                number += 1
            begin = _past_blanks(text, at)
            if mark == b"]":
                if begin < len(text):
                    raise ValueError("something follows after the list")
                return
        elif mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
    if depth:
        raise ValueError(f"record {number + 1}, which begins at byte {begin + 1}, has no end")
    raise ValueError("the list has no end")


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
            try:
                for begin, end in records_of_list(text):
                    self._starts.append(begin)
                    self._stops.append(end)
                    self._numbers.append(len(self._starts))
            except ValueError as error:
                raise DataError(f"{self.path}: malformed JSON: {error}; {self.fix}") from error

    def _stop(self, i: int) -> int:
        return self._stops[i]


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
