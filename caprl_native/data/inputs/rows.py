"""One row of a list -> an entry: a path, or an object with media and further columns."""

from __future__ import annotations

import math
import os
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from caprl_native.data.fields import FieldError, kind_of
from caprl_native.data.inputs.kinds import kind_of_name
from caprl_native.data.listing import Entry
from caprl_native.data.record_formats.plain import ALL_MEDIA_FIELDS, clips_of, identity_of, media_in
from caprl_native.types import MediaRef

_CLIP = ("start", "end")
_MIXED = "media"
_NO_MEDIA = "give image, images, video, videos, image_path, video_path or media"


def entry_of(row: Any, *, source: str, root: str) -> Entry:
    """The entry that a row of a list describes; where it describes none, one with a `problem`.

    `source`: "file:line". `root`: what relative paths start from.
    """
    try:
        if isinstance(row, str):
            return _of_path(row, source, root)
        if isinstance(row, dict):
            return _of_object(row, source, root)
        raise FieldError("record", f"expected a path or an object, got {kind_of(row)}")
    except FieldError as error:
        identity = row.get("id") if isinstance(row, dict) else None
        name = str(identity) if isinstance(identity, str | int) and identity != "" else source
        return problem(name, source, str(error))


def problem(identity: str, source: str, why: str) -> Entry:
    """An entry that fails for what its line is."""
    return Entry(identity, source=source, problem=f"{source}: {why}")


def _of_path(row: str, source: str, root: str) -> Entry:
    name = row.strip()
    kind = kind_of_name(name)
    if kind is None:
        fix = "give a file's path, or an object with image or video"
        raise FieldError("path", f"{name!r:.80} is the name of no image or video", fix)
    (medium,) = media_in({kind: name}, media_root=root, source=source)
    return Entry(name, (medium,), source=source)


def _of_object(row: dict[str, Any], source: str, root: str) -> Entry:
    media = media_in(row, media_root=root, source=source, fields=ALL_MEDIA_FIELDS)
    mixed = not media and row.get(_MIXED) is not None
    if mixed:
        media = _by_names(row[_MIXED], source, root)
    if not media:
        raise FieldError("image", "the record has no media", _NO_MEDIA)
    names = [m.path or "" for m in media]
    default = _as_given(row, names[0]) if names[0] else os.path.basename(source)
    media = clips_of(row, media)
    default += _clip_name(media)
    own = {
        "id",
        *ALL_MEDIA_FIELDS,
        *((_MIXED,) if mixed else ()),
        *(_CLIP if _has_video(media) else ()),
    }
    columns = {k: _plain(v) for k, v in row.items() if k not in own and not _is_binary(v)}
    return Entry(identity_of(row.get("id"), default), tuple(media), columns, source)


def _by_names(value: Any, source: str, root: str) -> list[MediaRef]:
    """Images and videos in the order in which they are listed, told apart by their names' ends."""
    found = []
    for i, name in enumerate(value if isinstance(value, list) else [value]):
        where = f"{_MIXED}[{i}]" if isinstance(value, list) else _MIXED
        if not isinstance(name, str):
            raise FieldError(where, f"expected a path, got {kind_of(name)}", "give a file's path")
        kind = kind_of_name(name)
        if kind is None:
            fix = "give it as image or video"
            raise FieldError(where, f"{name!r:.80} is the name of no image or video", fix)
        found += media_in({kind: name}, media_root=root, source=source)
    return found


def _as_given(row: dict[str, Any], path: str) -> str:
    """The first medium's name as the row has it: it stays when the root moves."""
    for field in (*ALL_MEDIA_FIELDS, _MIXED):
        value = row.get(field)
        value = value[0] if isinstance(value, list) and value else value
        value = value.get("path") if isinstance(value, dict) else value
        if isinstance(value, str) and path.endswith(value.removeprefix("file://")):
            return value
    return path


def _clip_name(media: list[MediaRef]) -> str:
    """Tells the clips of a video apart: "#1.5-4"; empty for a whole one."""
    clip = next((m for m in media if m.start is not None or m.end is not None), None)
    if clip is None:
        return ""
    return "#" + "-".join("" if t is None else f"{t:.12g}" for t in (clip.start, clip.end))


def _has_video(media: list[MediaRef]) -> bool:
    return any(m.kind == "video" for m in media)


def _is_binary(value: Any) -> bool:
    """Embedded files that are no medium of ours cannot be kept in a text."""
    if isinstance(value, dict):
        return any(map(_is_binary, value.values()))
    if isinstance(value, list):
        return any(map(_is_binary, value))
    return isinstance(value, bytes | bytearray | memoryview)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN, which stands for what is missing, as null."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return str(value) if isinstance(value, Decimal) else value
