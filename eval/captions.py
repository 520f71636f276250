"""Captions that were made elsewhere, by the items that they are of.

A file is the reference's (`{"original_sample", "generated_captions"}` of images, `{"sample",
"captions"}` of videos), a run's own `items.jsonl` (or the run's folder), records of an `id` with
`caption` or `captions`, Tarsier's predictions, or an object of captions by id. An id is an item's,
or names what several items are about.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caprl_native.data.records import DataError
from caprl_native.inference.store import Reply
from eval.config import BenchmarkConfig, PrismConfig, chosen
from eval.items import Item
from eval.plan import LoadedBenchmark
from eval.records import pair

SAMPLES = {"original_sample": "generated_captions", "sample": "captions"}
IDS = ("id", "file_id", "video_id", "image_id")
FORMS = (
    '"original_sample" and "generated_captions", "sample" and "captions", or "id" (or "file_id", '
    '"video_id", "image_id") and "caption" or "captions"'
)


@dataclass(frozen=True)
class _Entry:
    """One record of a file: of an item's id, or of an item's own record."""

    source: str  # "file:line", or the number or key of the record
    captions: tuple[str | None, ...]
    id: str | None = None
    sample: Any = None


def given_captions(
    config: PrismConfig, loaded: Sequence[LoadedBenchmark]
) -> dict[tuple[str, str], tuple[Reply, ...]]:
    """The captions of all items of benchmarks that have files of them, by benchmark and id.

    What is null or blank in a file is a caption that is missing, and so is, with `keep_failed`,
    what is not there at all. Raises `DataError` for a file that cannot be read, and for captions
    that are missing, given twice, or of no item (with `limit`, items beyond it are none).
    """
    tables = chosen(config)
    return {
        (part.benchmark.name, name): replies
        for part in loaded
        if tables[part.benchmark.name].captions
        for name, replies in _of_benchmark(config, tables[part.benchmark.name], part).items()
    }


def _of_benchmark(
    config: PrismConfig, given: BenchmarkConfig, loaded: LoadedBenchmark
) -> dict[str, tuple[Reply, ...]]:
    name, files = loaded.benchmark.name, ", ".join(given.captions)
    entries = [entry for path in given.captions for entry in _read(Path(path), name)]
    found = _by_item(entries, loaded.items, config.run.limit > 0)
    n = config.captioner.n
    if not config.run.keep_failed:
        _check_all(found, loaded.items, n, files)
    if n > 1 and found and all(len(set(e.captions[:n])) == 1 for e in found.values()):
        raise DataError(
            f"{files}: each item has one caption, again and again: the best of them would be their "
            "mean; give --captioner.n 1"
        )
    missing = Reply(failure=f"captions: {files}: there is none")
    replies = {}
    for item in loaded.items:
        texts = found[item.id].captions if item.id in found else ()
        made = [Reply(text) if text and text.strip() else missing for text in texts[:n]]
        replies[item.id] = (*made, *[missing] * (n - len(made)))
    return replies


def _by_item(entries: list[_Entry], items: Sequence[Item], limited: bool) -> dict[str, _Entry]:
    """Each item's entry. Raises `DataError` for an entry of no item, and for two of one."""
    found: dict[str, _Entry] = {}
    known = _names(items)
    samples = [entry for entry in entries if entry.id is None]
    paired = pair([entry.sample for entry in samples], items)
    named = [(entry, paired[i].id if i in paired else None) for i, entry in enumerate(samples)]
    named += [(entry, entry.id) for entry in entries if entry.id is not None]
    for entry, name in named:
        if name not in known:
            if limited:
                continue
            what = f"id {name!r:.100} is" if name is not None else "the sample is"
            raise DataError(
                f"{entry.source}: {what} of no item of the benchmark (or it is there more often "
                "than in the benchmark's files); remove the record, or give the files it is of"
            )
        for item in known[name]:
            if item in found:
                raise DataError(
                    f"{entry.source}: captions of {item!r:.100} are there twice, first in "
                    f"{found[item].source}; remove one"
                )
            found[item] = entry
    return found


def _names(items: Sequence[Item]) -> dict[str | None, list[str]]:
    """The items' ids by what names them: their ids, else what is captioned."""
    found: dict[str | None, list[str]] = {item.id: [item.id] for item in items}
    shared: dict[str | None, list[str]] = defaultdict(list)
    for item in items:
        for name in item.caption_ids:
            shared[name].append(item.id)
    return {**shared, **found}


def _check_all(found: Mapping[str, _Entry], items: Sequence[Item], n: int, files: str) -> None:
    """Raises `DataError` where an item has no captions, or fewer than are asked for."""
    missing = [item.id for item in items if item.id not in found]
    if missing:
        raise DataError(
            f"{files}: no captions of {len(missing)} of {len(items)} items, the first of them "
            f"{missing[0]!r:.100}; add them, or count them as missing with --keep-failed"
        )
    for entry in found.values():
        if len(entry.captions) < n:
            raise DataError(
                f"{entry.source}: {len(entry.captions)} captions, captioner.n is {n}: give "
                f"--captioner.n {max(1, len(entry.captions))}, or count the others as missing with "
                "--keep-failed"
            )


# --- files ------------------------------------------------------------------------------------


def _read(path: Path, benchmark: str) -> Iterator[_Entry]:
    """The entries of one file. Raises `DataError`."""
    path = path / "items.jsonl" if path.is_dir() else path
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason} at byte {error.start + 1}") from error
    for source, record in _records(path, text):
        if isinstance(record, tuple):
            yield _Entry(source, _texts(source, "captions", record[1]), id=record[0])
            continue
        if not isinstance(record, dict):
            raise DataError(f"{source}: expected an object with {FORMS}, got {record!r:.60}")
        if record.get("benchmark", benchmark) == benchmark:
            yield _entry(source, record)


def _records(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Records with their places: of lines, of a list, or pairs (id, captions) of an object."""
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", _parsed(f"{path}:{number}", line)
        return
    value = _parsed(str(path), text)
    if isinstance(value, list):
        yield from ((f"{path}:{number}", record) for number, record in enumerate(value, 1))
    elif isinstance(value, dict):
        yield from ((f"{path}:{key}", (key, captions)) for key, captions in value.items())
    else:
        raise DataError(f"{path}: expected a list of records, or an object of captions by id")


def _parsed(source: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: malformed JSON: {error!s:.200}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises ValueError for a key that it has twice: one of the two would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r:.100} is there twice")
    return found


def _entry(source: str, record: Mapping[str, Any]) -> _Entry:
    for sample, captions in SAMPLES.items():
        if sample in record and captions in record:
            texts = _texts(source, captions, record[captions])
            return _Entry(source, texts, sample=record[sample])
    if isinstance(said := record.get("text"), dict) and "prediction" in said:  # Tarsier's
        texts = _texts(source, "text.prediction", said["prediction"])
        return _Entry(source, texts, id=str(record.get("idx")))
    field = next((f for f in ("captions", "caption") if f in record), None)
    name = next((record[f] for f in IDS if f in record), None)
    if field is None or not isinstance(name, str | int) or isinstance(name, bool):
        raise DataError(f"{source}: it has none of {FORMS}")
    return _Entry(source, _texts(source, field, record[field]), id=str(name))


def _texts(source: str, field: str, value: Any) -> tuple[str | None, ...]:
    """A caption, a list of them, or a list of our records of them."""
    listed = value if isinstance(value, list) else [value]
    texts = [v.get("text") if isinstance(v, dict) and "text" in v else v for v in listed]
    wrong = next((t for t in texts if not isinstance(t, str | None)), None)
    if wrong is not None:
        raise DataError(f"{source}: {field}: expected a text or a list of texts, got {wrong!r:.60}")
    return tuple(texts)
