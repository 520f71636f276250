"""Copies of data files with further columns, each in its file's own format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caprl_native.data.fields import DataError, FieldError
from caprl_native.data.parquet import UNREADABLE
from caprl_native.data.record_files import JsonArray, Rows
from caprl_native.files import atomic_write

Column = list[float | None]  # of a record: a number for each of its questions
Columns = Callable[[int], dict[str, Column]]  # of record i of a file, by name

_GROUP_BYTES = 64 << 20  # of a row group of the copy, about
_LEAST_ROWS = 100


def write_copy(rows: Rows, source: str, target: Path, names: list[str], columns: Columns) -> None:
    """Writes the records of `source` with the columns of these names, in place of those it has.

    `target` appears whole or not at all.

    Raises:
        DataError: the source cannot be read to its end, or is the target.
    """
    if target.exists() and os.path.samefile(source, target):
        raise DataError(f"{source}: the copy would take its place; give another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    if rows.unit == "row":
        _write_parquet(source, target, names, columns)
        return
    with atomic_write(target) as file:
        is_list = isinstance(rows, JsonArray)
        file.write("[\n" if is_list else "")
        for i in range(len(rows)):
            try:
                raw = rows.read(i)
            except FieldError as error:
                raise DataError(f"{source}: {rows.unit} {rows.number(i)}: {error}") from error
            text = json.dumps(raw | columns(i), ensure_ascii=False)
            ends = i == len(rows) - 1
            file.write(text + (",\n" if is_list and not ends else "\n"))
        file.write("]\n" if is_list else "")


def _write_parquet(source: str, target: Path, names: list[str], columns: Columns) -> None:
    """As the source is compressed; row groups of about 64 MiB, or as small as the source's."""
    temporary = target.with_name(target.name + ".tmp")
    try:
        with pq.ParquetFile(source, memory_map=True) as file:
            schema = _with_columns(file.schema_arrow, names)
            with pq.ParquetWriter(temporary, schema, compression=_compression(file)) as writer:
                first = 0
                for batch in _batches(file):
                    parts = [columns(first + i) for i in range(batch.num_rows)]
                    writer.write_table(_extended(batch, parts, schema), row_group_size=len(parts))
                    first += batch.num_rows
        os.replace(temporary, target)
    except UNREADABLE as error:
        raise DataError(f"{source}: cannot be copied to {target}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        each = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = min(group.num_rows, max(_LEAST_ROWS, _GROUP_BYTES // each))
        yield from file.iter_batches(batch_size=max(1, rows), row_groups=[number])


def _extended(batch: pa.RecordBatch, parts: list[dict[str, Column]], schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_batches([batch])
    return pa.Table.from_arrays(
        [
            pa.array([part[field.name] for part in parts], field.type)
            if parts and field.name in parts[0]
            else table.column(field.name)
            for field in schema
        ],
        schema=schema,
    )


def _with_columns(schema: pa.Schema, names: list[str]) -> pa.Schema:
    kept = [field for field in schema if field.name not in names]
    added = [pa.field(name, pa.list_(pa.float64())) for name in names]
    return pa.schema([*kept, *added], metadata=_described(schema.metadata, names))


def _described(metadata: dict[bytes, bytes] | None, names: list[str]) -> dict[bytes, bytes]:
    """Hugging Face's data sets list a file's columns in its metadata, and refuse others."""
    found = dict(metadata or {})
    try:
        about: dict[str, Any] = json.loads(found[b"huggingface"])
        number = {"dtype": "float64", "_type": "Value"}
        features = about["info"]["features"]
        features |= {name: {"feature": number, "_type": "Sequence"} for name in names}
        found[b"huggingface"] = json.dumps(about).encode()
    except (KeyError, TypeError, ValueError):
        found.pop(b"huggingface", None)
    return found


def _compression(file: pq.ParquetFile) -> str:
    groups = file.metadata.num_row_groups and file.metadata.num_columns
    name = file.metadata.row_group(0).column(0).compression if groups else "SNAPPY"
    return "none" if name == "UNCOMPRESSED" else name
