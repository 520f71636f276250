"""The files that a job's results become: JSON lines, JSON, Parquet, and chats to train on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caprl_native.captioning.config import Format
from caprl_native.data.listing import Entry
from caprl_native.files import atomic_write
from caprl_native.inference.jobs.chunk import JobResult

_GROUP = 1000  # rows of a Parquet row group
_CLIP = ("start", "end")
# fmt: off
_OURS = frozenset({
    "id", "image", "video", "caption", "captions", "tokens", "finish_reason", "model", "prompt",
    "seed", "truncated", "degenerate", *_CLIP,
})
# fmt: on
KEPT = "input_"  # before the name of a column of the input that we have one of our own for


def row_of(result: JobResult, model: str) -> dict[str, Any]:
    """The line of an entry that has captions, in this order of fields.

    With one caption `caption`, `tokens`, `finish_reason` and `seed` are values; with several they
    are lists, and `captions` takes the place of `caption`.
    """
    assert result.record is not None
    made = result.record["captions"]
    row: dict[str, Any] = {"id": result.entry.id, **_media(result)}
    row["caption" if len(made) == 1 else "captions"] = _one(c["text"] for c in made)
    for name in ("tokens", "finish_reason"):
        row[name] = _one(c[name] for c in made)
    row |= {"model": model, "prompt": result.record["prompt"]}
    row["seed"] = _one(c["seed"] for c in made)
    for name in ("truncated", "degenerate"):
        row[name] = _one(bool(c.get(name)) for c in made)
    return row | {_free(name): value for name, value in result.entry.columns.items()}


def _media(result: JobResult) -> dict[str, Any]:
    """The entry's media by kind: a path, or a list where there are several."""
    found: dict[str, list[str]] = {}
    for medium in result.entry.media:
        found.setdefault(medium.kind, []).append(medium.name)
    media: dict[str, Any] = {kind: _one(names) for kind, names in found.items()}
    clip = next((m for m in result.entry.media if m.start is not None or m.end is not None), None)
    return media | ({"start": clip.start, "end": clip.end} if clip else {})


def _one(values: Iterable[Any]) -> Any:
    found = list(values)
    return found[0] if len(found) == 1 else found


def _free(name: str) -> str:
    return KEPT + name if name in _OURS else name


def chats_of(result: JobResult, form: Format, folder: Path) -> Iterator[dict[str, Any]]:
    """The entry as chats that supervised training reads: one for each of its captions.

    Relative paths of media start from `folder`, the output's, as training takes them to.
    """
    record = result.record
    assert record is not None
    result = replace(result, entry=_seen_from(folder, result.entry))
    made, prompt = record["captions"], record["prompt"]
    for number, caption in enumerate(made):
        identity = result.entry.id if len(made) == 1 else f"{result.entry.id}#{number}"
        if form == "llava":
            marks = "".join(f"<{medium.kind}>\n" for medium in result.entry.media)
            turns = [
                {"from": "human", "value": marks + prompt},
                {"from": "gpt", "value": caption["text"]},
            ]
            yield {"id": identity, **_media(result), "conversations": turns}
        else:
            parts = [
                {"type": f"{m.kind}_url", f"{m.kind}_url": {"url": m.name}}
                for m in result.entry.media
            ]
            user = [*parts, {"type": "text", "text": prompt}]
            turns = [
                {"role": "user", "content": user},
                {"role": "assistant", "content": caption["text"]},
            ]
            clip = {name: value for name, value in _media(result).items() if name in _CLIP}
            yield {"id": identity, "messages": turns, **clip}


def _seen_from(folder: Path, entry: Entry) -> Entry:
    media = [
        replace(m, path=os.path.relpath(m.path, folder))
        if m.path and not os.path.isabs(m.path)
        else m
        for m in entry.media
    ]
    return replace(entry, media=tuple(media))


def write_output(path: Path, form: Format, results: Iterable[JobResult], model: str) -> int:
    """Writes what the entries without failures have; returns how many. The file appears as a whole.

    llava and openai are a JSON list, or lines where the name ends with .jsonl.

    Raises:
        OSError: it cannot be written.
    """
    good = (result for result in results if not result.failure)
    if form in ("llava", "openai"):
        return _write_json(path, (c for r in good for c in chats_of(r, form, path.parent)))
    rows = (row_of(result, model) for result in good)
    if form == "parquet":
        return _write_parquet(path, rows)
    return _write_json(path, rows, as_lines=form == "jsonl")


def _write_json(path: Path, rows: Iterable[dict[str, Any]], as_lines: bool | None = None) -> int:
    as_lines = path.suffix == ".jsonl" if as_lines is None else as_lines
    count = 0
    with atomic_write(path) as file:
        file.write("" if as_lines else "[")
        for row in rows:
            file.write("" if as_lines else ",\n" if count else "\n")
            file.write(_text(row) + ("\n" if as_lines else ""))
            count += 1
        file.write("" if as_lines else "\n]\n")
    return count


def _text(value: Any) -> str:
    """JSON, readable; half of a surrogate pair, which no file can hold, stays escaped."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """In row groups, over a file of lines: types of further columns are known at the end only."""
    lines = path.with_name(path.name + ".rows.tmp")
    temporary = path.with_name(path.name + ".tmp")
    try:
        count = _write_json(lines, rows, as_lines=True)
        schema = _schema(lines)
        with pq.ParquetWriter(temporary, schema) as writer:
            for part in _parts(lines):
                writer.write_table(
                    pa.Table.from_pylist([_fit(row, schema) for row in part], schema)
                )
        os.replace(temporary, path)
        return count
    finally:
        for file in (lines, temporary):
            file.unlink(missing_ok=True)


def _parts(lines: Path) -> Iterator[list[dict[str, Any]]]:
    with lines.open(encoding="utf-8") as file:
        while part := [_storable(line) for line in islice(file, _GROUP)]:
            yield part


def _storable(line: str) -> dict[str, Any]:
    """A row as Parquet can hold it: half of a surrogate pair (a name that is no UTF-8) is a "?"."""
    row: dict[str, Any] = json.loads(line)
    if "\\ud" in line:
        row = json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
    return row


def _schema(lines: Path) -> pa.Schema:
    """The types of all columns; one whose values have no type in common that Parquet knows is a
    JSON text."""
    found: dict[str, pa.DataType] = {}
    for part in _parts(lines):
        for name in dict.fromkeys(name for row in part for name in row):
            values = [row.get(name) for row in part]
            found[name] = _common(found.get(name), values)
    return pa.schema(list(found.items()))


def _common(known: pa.DataType | None, values: list[Any]) -> pa.DataType:
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        kind = pa.array(values).type
        if known is not None:
            fields = [pa.schema([("x", known)]), pa.schema([("x", kind)])]
            kind = pa.unify_schemas(fields, promote_options="permissive").field("x").type
        if not _has_empty_object(kind):
            return kind
    return pa.string()


def _has_empty_object(kind: pa.DataType) -> bool:
    """Whether there is an object without any field in it, which Parquet cannot hold."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not inner) or any(map(_has_empty_object, inner))


def _fit(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Values of columns that are texts as texts."""
    return {
        name: value
        if value is None
        or isinstance(value, str)
        or not pa.types.is_string(schema.field(name).type)
        else _text(value)
        for name, value in row.items()
    }


def write_failures(path: Path, results: Iterable[JobResult]) -> int:
    """A line for each entry that has failed: id, source, reason; no file where there is none."""
    failed = (r for r in results if r.failure)
    first = next(failed, None)
    if first is None:
        path.unlink(missing_ok=True)
        return 0
    count = 0
    with atomic_write(path) as file:
        for result in chain([first], failed):
            entry = result.entry
            about = {"id": entry.id, "source": entry.source, "reason": result.failure}
            file.write(_text(about) + "\n")
            count += 1
    return count
