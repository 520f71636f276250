"""Rows of a Parquet file, read by row group: texts are cached, embedded files are not kept.

Random access to a row costs the decoding of its row group's columns. Those without binary content
stay in a small cache; of columns with embedded files only the last row group does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_CACHE_BYTES = 256 * 2**20


class ParquetRows:
    """The rows of one file, by position, as plain Python objects."""

    unit = "row"

    def __init__(self, path: str) -> None:
        self.path = path
        self._open()
        metadata = self._file.metadata
        sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._fields = list(self._file.schema_arrow)

    def _open(self) -> None:
        self._file = pq.ParquetFile(self.path, memory_map=True)
        self._texts: OrderedDict[int, pa.Table] = OrderedDict()
        self._media: tuple[int, pa.Table] | None = None

    def __getstate__(self) -> dict[str, Any]:
        own = ("_file", "_texts", "_media")  # a worker opens the file itself
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def number(self, i: int) -> int:
        return i + 1

    def scan(self) -> Iterator[dict[str, Any]]:
        """Every row in order, empty `bytes` standing for those of embedded files."""
        embedded = {f.name for f in self._fields if _is_file(f.type)}
        columns = [path for path in self._leaves() if path.split(".")[0] not in embedded]
        columns += [
            path
            for path in self._leaves()
            if path.split(".")[0] in embedded and not path.endswith(".bytes")
        ]
        for group in range(len(self._ends)):
            table = self._file.read_row_group(group, columns=columns)
            for batch in table.to_batches(max_chunksize=256):
                for row in batch.to_pylist():
                    yield {k: _stand_in(v) if k in embedded else v for k, v in row.items()}

    def read(self, i: int) -> dict[str, Any]:
        """Row `i` with its embedded files."""
        group = bisect_right(self._ends, i)
        offset = i - (self._ends[group - 1] if group else 0)
        row: dict[str, Any] = {}
        for table in (self._text_columns(group), self._media_columns(group)):
            if table.num_columns:
                row |= table.slice(offset, 1).to_pylist()[0]
        return row

    def _text_columns(self, group: int) -> pa.Table:
        if group not in self._texts:
            names = [f.name for f in self._fields if not _holds_binary(f.type)]
            self._texts[group] = self._file.read_row_group(group, columns=names)
            while (
                len(self._texts) > 1 and sum(t.nbytes for t in self._texts.values()) > _CACHE_BYTES
            ):
                self._texts.popitem(last=False)
        self._texts.move_to_end(group)
        return self._texts[group]

    def _media_columns(self, group: int) -> pa.Table:
        if self._media is None or self._media[0] != group:
            self._media = None  # two row groups of images need not be in memory at once
            names = [f.name for f in self._fields if _holds_binary(f.type)]
            self._media = group, self._file.read_row_group(group, columns=names)
        return self._media[1]

    def _leaves(self) -> list[str]:
        schema = self._file.schema
        return [schema.column(i).path for i in range(len(schema))]


def _holds_binary(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_binary(kind.field(i).type) for i in range(kind.num_fields))


def _is_file(kind: pa.DataType) -> bool:
    """Whether a column holds `{"bytes", "path"}`, or lists of it (as Hugging Face data sets do)."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) and {"bytes", "path"} <= {f.name for f in kind}


def _stand_in(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_stand_in(item) for item in cell]
    return cell | {"bytes": b""} if isinstance(cell, dict) and not cell["path"] else cell
