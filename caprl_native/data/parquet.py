"""Rows of a Parquet file. Texts are cached; of embedded files little is in memory at a time.

Random access to a row costs the decoding of its row group's columns. Those without binary content
stay in a small cache, whole row groups of them; of columns with embedded files the last row group
does, if it is not large. Of a large row group (a file written in one piece has them of gigabytes)
a few rows at a time are decoded, from its first row to the one that is asked for: memory stays
bounded, and reading in order stays fast. For rows at random a folder keeps what was decoded
(`media_cache.py`).
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caprl_native.data.fields import FieldError, UnreadableFile
from caprl_native.data.media_cache import MediaCache
from caprl_native.messages import cut

CACHE_BYTES = 256 * 2**20  # of decoded columns, texts and embedded files each
BATCH_BYTES = 32 * 2**20  # what is decoded at a time of a large row group, about
_BATCH_ROWS = 256
# What pyarrow raises on a damaged file.
UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, LookupError)

log = logging.getLogger(__name__)


class ParquetRows:
    """The rows of one file, by position, as plain Python objects."""

    unit = "row"

    def __init__(self, path: str) -> None:
        self.path = path
        self._cache: MediaCache | None = None
        self._open()
        metadata = self._file.metadata
        sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._warn_of_large_groups()

    def _open(self) -> None:
        self._file = pq.ParquetFile(self.path, memory_map=True, page_checksum_verification=True)
        self._fields = list(self._file.schema_arrow)
        texts = [f.name for f in self._fields if not _holds_binary(f.type)]
        media = [f.name for f in self._fields if _holds_binary(f.type)]
        self._columns = (_Columns(self._file, texts), _Columns(self._file, media, 1, self._cache))

    def keep_decoded(self, folder: Path) -> None:
        """Rows will be read at random: embedded files are kept there once they are decoded.

        A file with one row group that stays in memory needs no such folder.
        """
        _, media = self._columns
        if media.names and (len(self._ends) > 1 or media.size(0) > CACHE_BYTES):
            self._cache = media.cache = MediaCache(folder, self.path)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_file", "_fields", "_columns")  # a worker opens the file itself
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def number(self, i: int) -> int:
        return i + 1

    def scan(self) -> Iterator[dict[str, Any] | FieldError]:
        """Every row in order, empty `bytes` standing for those of embedded files.

        A row that cannot be read is its `FieldError`, and the last one.
        """
        try:
            for group in range(len(self._ends)):
                yield from self._scan_group(group)
        except UNREADABLE as error:
            yield _unreadable(error)

    def _scan_group(self, group: int) -> Iterator[dict[str, Any]]:
        files = {f.name for f in self._fields if is_file(f.type)}
        leaves = [self._file.schema.column(i).path for i in range(len(self._file.schema))]
        data = [p for p in leaves if p.split(".")[0] in files and p.endswith(".bytes")]
        wanted = [path for path in leaves if path not in data]
        there = self._there(group, data)
        for row in _python_rows(self._file, group, wanted):
            present = next(there)
            yield {k: _stand_in(v, present.get(k)) if k in files else v for k, v in row.items()}

    def _there(self, group: int, leaves: list[str]) -> Iterator[dict[str, list[bool]]]:
        """Of each row and column, which embedded files have bytes; without an entry: all.

        A row group whose statistics say that nothing is missing is not read for it.
        """
        metadata = self._file.metadata.row_group(group)
        chunks = {metadata.column(i).path_in_schema: i for i in range(metadata.num_columns)}
        stats = [metadata.column(chunks[leaf]).statistics for leaf in leaves]
        sure = [s is not None and s.has_null_count and s.null_count == 0 for s in stats]
        doubtful = [leaf for leaf, s in zip(leaves, sure, strict=True) if not s]
        if not doubtful:
            yield from repeat({}, metadata.num_rows)
            return
        for batch in _batches(self._file, group, doubtful):
            columns = {n: _with_bytes(batch.column(n)) for n in batch.schema.names}
            for i in range(batch.num_rows):
                yield {name: column[i] for name, column in columns.items()}

    def read(self, i: int) -> dict[str, Any]:
        """Row `i` with its embedded files. Raises FieldError where the file is damaged."""
        group = bisect_right(self._ends, i)
        offset = i - (self._ends[group - 1] if group else 0)
        row: dict[str, Any] = {}
        try:
            for columns in self._columns:
                row |= columns.row(group, offset)
        except UNREADABLE as error:
            raise _unreadable(error) from error
        return row

    def _warn_of_large_groups(self) -> None:
        _, media = self._columns
        sizes = [media.size(group) for group in range(len(self._ends))]
        if max(sizes, default=0) > CACHE_BYTES:
            log.warning(
                "%s: a row group has %.1f GiB of embedded files; unless data.cache_dir keeps them, "
                "a row drawn at random costs the decoding of half of it. Rewrite the file with row "
                "groups of 100 rows",
                self.path,
                max(sizes) / 2**30,
            )


class _Columns:
    """Some columns of a file, by row: small row groups are kept whole, large ones are passed."""

    def __init__(
        self,
        file: pq.ParquetFile,
        names: list[str],
        groups: int = 0,
        cache: MediaCache | None = None,
    ) -> None:
        self._file, self.names, self._groups, self.cache = file, names, groups, cache
        self._whole: OrderedDict[int, pa.Table] = OrderedDict()
        self._large: set[int] = set()
        self._cursor: _Cursor | None = None

    def size(self, group: int) -> int:
        """Bytes of these columns in a row group, decompressed, as the file has it."""
        metadata = self._file.metadata.row_group(group)
        chunks = (metadata.column(i) for i in range(metadata.num_columns))
        wanted = set(self.names)
        return sum(c.total_uncompressed_size for c in chunks if _top(c) in wanted)

    def row(self, group: int, offset: int) -> dict[str, Any]:
        if not self.names:
            return {}
        table = self._table(group)
        if table is not None:
            return table.slice(offset, 1).to_pylist()[0]
        cursor, self._cursor = self._cursor, None  # it is of no use after an error
        if cursor is None or cursor.group != group or offset < cursor.first:
            cursor = None  # the memory of two would be needed
            cursor = _Cursor(self._file, group, self.names)
        row = cursor.row(offset)
        self._cursor = cursor
        return row

    def _table(self, group: int) -> pa.Table | None:
        """The row group's columns; None where they are large, or damaged at some place."""
        if self.cache is not None:
            read = partial(_batches, self._file, group, self.names)
            if (table := self.cache.table(group, self.size(group), read)) is not None:
                return table
        if group in self._large:
            return None
        if group not in self._whole:
            if self._groups:
                self._whole.clear()  # two row groups of images need not be in memory at once
            self._cursor = None
            table = self._read(group)
            if table is None:
                self._large.add(group)
                return None
            self._whole[group] = table
            while (
                len(self._whole) > 1 and sum(t.nbytes for t in self._whole.values()) > CACHE_BYTES
            ):
                self._whole.popitem(last=False)
        self._whole.move_to_end(group)
        return self._whole[group]

    def _read(self, group: int) -> pa.Table | None:
        if self.size(group) > CACHE_BYTES:
            return None
        batches, size = [], 0
        try:
            for batch in _batches(self._file, group, self.names):
                batches.append(batch)
                size += batch.nbytes
                if size > CACHE_BYTES:  # a dictionary makes little of much
                    return None
        except UNREADABLE:
            return None  # the rows before the damage can be read, and the others say what it is
        return pa.Table.from_batches(batches)


class _Cursor:
    """Passes over a row group's columns, a few rows at a time, as far as it must."""

    def __init__(self, file: pq.ParquetFile, group: int, names: list[str]) -> None:
        self.group, self.first = group, 0  # of the rows that are at hand
        self._batches = _batches(file, group, names)
        self._batch = next(self._batches)

    def row(self, offset: int) -> dict[str, Any]:
        while offset >= self.first + self._batch.num_rows:
            self.first += self._batch.num_rows
            self._batch = next(self._batches)
        return self._batch.slice(offset - self.first, 1).to_pylist()[0]


def _batches(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """A row group's columns (whole ones or leaves), about `BATCH_BYTES` at a time."""
    metadata = file.metadata.row_group(group)
    chunks = [metadata.column(i) for i in range(metadata.num_columns)]
    wanted = {name.split(".")[0] for name in columns} | set(columns)
    size = sum(c.total_uncompressed_size for c in chunks if {_top(c), c.path_in_schema} & wanted)
    rows = BATCH_BYTES * metadata.num_rows // max(size, 1)
    batches = file.iter_batches(
        batch_size=min(max(rows, 1), _BATCH_ROWS),
        row_groups=[group],
        columns=columns,
        use_threads=False,
    )
    found = 0
    for batch in batches:
        found += batch.num_rows
        yield batch
    if found < metadata.num_rows:
        raise ValueError(f"row group {group} ends after {found} of {metadata.num_rows} rows")


def _python_rows(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in _batches(file, group, columns):
        yield from batch.to_pylist()


def _top(chunk: pq.ColumnChunkMetaData) -> str:
    return chunk.path_in_schema.split(".")[0]


def _unreadable(error: BaseException) -> UnreadableFile:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UnreadableFile(
        "record",
        f"damaged Parquet data: {cut(lines[0], 160)}",
        "download the file again, or remove it",
    )


def _holds_binary(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_binary(kind.field(i).type) for i in range(kind.num_fields))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def is_file(kind: pa.DataType) -> bool:
    """Whether a column holds `{"bytes", "path"}`, or lists of it (as Hugging Face data sets do)."""
    if _is_list(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) and {"bytes", "path"} <= {f.name for f in kind}


def _with_bytes(column: pa.Array) -> list[list[bool]]:
    """Of each row, whether its embedded files have bytes."""
    if not _is_list(column.type):
        return [[v] for v in column.field("bytes").is_valid().to_pylist()]
    there = column.flatten().field("bytes").is_valid().to_pylist()
    ends = list(accumulate(n or 0 for n in column.value_lengths().to_pylist()))
    return [there[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _stand_in(cell: Any, there: list[bool] | None) -> Any:
    """A cell as it is read, empty `bytes` standing for those that are there."""
    if isinstance(cell, list):
        marks = there or [there is None] * len(cell)
        return [_stand_in(c, [mark]) for c, mark in zip(cell, marks, strict=True)]
    if not isinstance(cell, dict) or cell["path"]:
        return cell
    return cell | {"bytes": b""} if there is None or there[0] else cell
