"""One row of a list -> an entry: a path, or an object with media and further columns."""

from __future__ import annotations

import os
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from caprl_native.data.fields import FieldError, kind_of
from caprl_native.data.inputs.kinds import kind_of_name
from caprl_native.data.listing import Entry
from caprl_native.data.record_formats.plain import ALL_MEDIA_FIELDS, identity_of, media_in
from caprl_native.types import MediaRef

_CLIP = ("start", "end")
_NO_MEDIA = "give image, images, video, videos, image_path or video_path"


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
    if not media:
        raise FieldError("image", "the record has no media", _NO_MEDIA)
    names = [m.path or "" for m in media]
    default = _as_given(row, names[0]) if names[0] else os.path.basename(source)
    clip = {name: _seconds(row, name) for name in _CLIP}
    media = [_clipped(m, **clip) for m in media]
    own = {"id", *ALL_MEDIA_FIELDS, *(_CLIP if _has_video(media) else ())}
    columns = {k: _plain(v) for k, v in row.items() if k not in own and not _is_binary(v)}
    return Entry(identity_of(row.get("id"), default), tuple(media), columns, source)


def _as_given(row: dict[str, Any], path: str) -> str:
    """The first medium's name as the row has it: it stays when the root moves."""
    for field in ALL_MEDIA_FIELDS:
        value = row.get(field)
        value = value[0] if isinstance(value, list) and value else value
        value = value.get("path") if isinstance(value, dict) else value
        if isinstance(value, str) and path.endswith(value.removeprefix("file://")):
            return value
    return path


def _has_video(media: list[MediaRef]) -> bool:
    return any(m.kind == "video" for m in media)


def _seconds(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise FieldError(
            name, f"expected seconds, got {kind_of(value)}", "give a number of 0 or more"
        )
    return float(value)


def _clipped(medium: MediaRef, start: float | None, end: float | None) -> MediaRef:
    if medium.kind != "video" or (start is None and end is None):
        return medium
    if start is not None and end is not None and end <= start:
        raise FieldError("end", f"{end:g} is not after start, {start:g}", "give seconds")
    return MediaRef("video", medium.path, medium.data, medium.label, start, end, medium.fps)


def _is_binary(value: Any) -> bool:
    """Embedded files that are no medium of ours cannot be kept in a text."""
    if isinstance(value, dict):
        return any(map(_is_binary, value.values()))
    if isinstance(value, list):
        return any(map(_is_binary, value))
    return isinstance(value, bytes | bytearray | memoryview)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
