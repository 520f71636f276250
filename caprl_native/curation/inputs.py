"""What is curated: images and videos as entries, in a fixed order, read as they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from caprl_native.curation.config import CurationConfig, InputConfig
from caprl_native.data.fields import DataError, FieldError
from caprl_native.data.formats import parse_record
from caprl_native.data.invalid import Invalid
from caprl_native.data.listing import Entry
from caprl_native.data.record_files import Rows, open_file
from caprl_native.data.records import read_records
from caprl_native.data.videos import FRAME_FILES
from caprl_native.files import matching, user_path
from caprl_native.inference.store import key_of
from caprl_native.rewards.prompts import says_cannot_answer
from caprl_native.types import MediaRef

IMAGES = (*FRAME_FILES, ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
_PATHS = {"image_path": "image", "video_path": "video"}
_BLOCK = 1 << 20


def entries(config: CurationConfig) -> Iterator[Entry]:
    """The inputs of a run, or of its shard; each time in the same order.

    Raises DataError for files that cannot be read.
    """
    every = checked(config) if config.run.recheck else listed(config.input)
    k, m = config.shard
    of_shard = (e for e in every if m == 1 or shard_of(e.id, m) == k)
    return islice(of_shard, config.input.limit or None)


def shard_of(name: str, count: int) -> int:
    """The part that an id falls into, whatever else there is."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def listed(config: InputConfig) -> Iterator[Entry]:
    """The media that names and lists mean."""
    root = user_path(config.media_root)
    for name in config.files:
        found = matching(name)
        if not found:
            raise DataError(f"{name}: no file matches; check input.files")
        for path in found:
            if kind := _kind(path):
                yield Entry(path, (MediaRef(kind, path),), source=path)  # type: ignore[arg-type]
            else:
                yield from _of_list(path, root or os.path.dirname(path))


def _kind(path: str) -> str | None:
    suffix = Path(path).suffix.lower()
    return "image" if suffix in IMAGES else "video" if suffix in VIDEOS else None


def _of_list(path: str, root: str) -> Iterator[Entry]:
    rows = open_file(path)
    for i in range(len(rows)):
        where = f"{path}:{rows.number(i)}"
        try:
            yield _entry(_row(rows, i), where, root)
        except FieldError as error:
            yield Entry(where, source=where, problem=f"{where}: {error}")


def _row(rows: Rows, i: int) -> dict[str, Any]:
    raw = rows.read(i)
    if isinstance(raw, str):
        kind = _kind(raw) or "image"
        return {kind: raw}
    if not isinstance(raw, dict):
        raise FieldError("record", "expected an object or a path")
    return raw


def _entry(raw: dict[str, Any], where: str, root: str) -> Entry:
    """A row's media; its own prompt and questions do not matter here."""
    given = {name: raw[name] for name in ("id", "image", "images", "video", "videos") if name in raw}
    for name, kind in _PATHS.items():
        if raw.get(name) is not None and given.get(kind) is None:
            given[kind] = raw[name]
    if raw.get("start") is not None or raw.get("end") is not None:
        fix = "training data name whole files; cut it into a file of its own"
        raise FieldError("start", "is a clip of a video", fix, "clips")
    sample = parse_record(
        given, kind="media", source=where, default_id="", media_root=root
    )
    name = sample.id or (sample.media[0].path or where)
    return Entry(name, sample.media, source=where)


def checked(config: CurationConfig) -> Iterator[Entry]:
    """The records of a data set with questions, to be answered and filtered once more.

    Columns: `questions` as `questions.jsonl` has them, and the record's `prompt`. Raises DataError.
    """
    invalid = Invalid(questions="drop", no_answer=says_cannot_answer)
    records = read_records([config.run.recheck], config.input.media_root, invalid=invalid)
    for i in range(len(records)):
        sample = records[i]
        questions = [
            {"question": q.question, "choices": list(q.choices), "answer": q.answer, "line": 0}
            for q in sample.questions
        ]
        columns = {"questions": questions, "prompt": sample.messages}
        yield Entry(sample.id, sample.media, columns, records.place(i))


# --- what a medium is, beside its name ----------------------------------------------------------


def described(media: Iterable[MediaRef]) -> list[dict[str, Any]]:
    """Media as the files of the stages name them: without embedded bytes."""
    return [
        {name: value for name, value in asdict(replace(m, data=None)).items() if value}
        for m in media
    ]


def media_key(media: Iterable[MediaRef]) -> str:
    """A digest of the media's contents; empty where one cannot be read."""
    try:
        return key_of(*([m.kind, m.start, m.end, m.fps, _digest(m)] for m in media))
    except (OSError, ValueError):
        return ""


def _digest(medium: MediaRef) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if medium.data is not None:
        digest.update(medium.data)
        return digest.hexdigest()
    path = Path(medium.path or "")
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        digest.update(file.name.encode() if path.is_dir() else b"")
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
