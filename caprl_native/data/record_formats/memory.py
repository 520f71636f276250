"""TaskMem's records: segments of long videos, whose prompts tell what was written about the last
ones.

    {"id": "film*3", "type": "episodic_on_policy", "step": 3, "video_idx": 3,
     "episodic_folder": "maps", "input": [{"type": "video", "video": "film/3.mp4"},
     {"type": "image", "image": "film/3_face_1.jpg"}, {"type": "text", "text": "... {} ..."}]}

The last text of `input` has a place, `{}`, for the descriptions of the min(step, 4) segments
before. A record of type "semantic" has two: the second is for a JSON list of the semantic memories
so far. Names of faces in them become those of the record's own segment, by
`FOLDER/VIDEO/VIDEO_map.json`. `docs/memory_data.md` has it all.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from caprl_native.data.fields import FieldError, kind_of, loads
from caprl_native.data.record_formats.base import FORMATS, Reading, RecordFormat
from caprl_native.data.record_formats.plain import parse_plain
from caprl_native.messages import shown
from caprl_native.text.described import description_in
from caprl_native.text.faces import face_number, relabelled
from caprl_native.types import Carried, Sample

MEMORY = "memory"
EPISODIC, SEMANTIC = "episodic_on_policy", "semantic"
PLACES = {EPISODIC: 1, SEMANTIC: 2}  # in the last text, by type
LONGEST = 4  # segments of a history
MARKER = "[Description of the preceding part]:"

FaceMap = tuple[tuple[str, str], ...]  # from the video's names to the segment's

log = logging.getLogger(__name__)

_BRACES = re.compile(r"\{\}|\{\{|\}\}|[{}]")


@dataclass(frozen=True)
class Segment(Carried):
    """What a segment's prompt is made of. `maps`: of the faces of the segments that it needs or
    wants, by their keys, and of its own (""); `semantic`: earlier texts, each with its segment's
    key, or "" where nobody says which it is of; None: the prompt has no place for them."""

    maps: tuple[tuple[str, FaceMap], ...] = ()
    semantic: tuple[tuple[str, str], ...] | None = None

    def filled(self, sample: Sample, texts: Mapping[str, str]) -> Sample:
        """Texts are told in the segment's own names of faces, in one go: the same face has the same
        number in all of them."""
        maps = {key: dict(pairs) for key, pairs in self.maps}
        keys = [key for key in (*self.needs, *self.wants) if key in texts]
        told = [(key, texts[key]) for key in keys] + list(self.semantic or ())
        named = relabelled([t for _, t in told], [maps.get(k, {}) for k, _ in told], maps[""])
        context = " ".join(named[: len(keys)])
        values = [context]
        if self.semantic is not None:
            values.append(json.dumps(named[len(keys) :], ensure_ascii=False))
        return replace(sample, messages=_filled(sample.messages, values), context=context)

    def text_of(self, written: str) -> str | None:
        return description_in(written)


class Memory(RecordFormat):
    """TaskMem's: segments of long videos, with what was written about those before."""

    def matches(self, raw: dict[str, Any]) -> bool:
        is_named = raw.get("type") in tuple(PLACES) or raw.get("episodic_folder") is not None
        return raw.get("input") is not None and is_named

    def parse(self, raw: dict[str, Any], reading: Reading) -> Sample:
        if reading.prompt_override:
            problem = "data.prompt would take the place of what tells the earlier segments"
            raise FieldError("input", problem, "unset data.prompt")
        kind, step, index = _kind(raw), _number(raw, "step"), _number(raw, "video_idx")
        video, key = split_id(raw.get("id"))
        if min(step, LONGEST) > index:
            problem = f"{step} earlier segments, but this is number {index} of the video"
            raise FieldError("step", problem, "give at most video_idx, segments count from 0")
        sample = _chat(raw, reading)
        text, places = _last_text(sample), PLACES[kind]
        found = len(_places(text))
        if not found and not step and kind == EPISODIC:  # somebody has filled it in
            context = preceding(text)
            if context is None:
                _warn_of_marker(reading.source.rpartition(":")[0])
            return replace(sample, kind=kind, context=context or "")
        if found != places:
            problem = f"the last text has {found} place(s) {{}}, expected {places} with {kind!r}"
            raise FieldError("input", problem, "write {} where earlier texts go, and only there")
        earlier = tuple(str(i) for i in range(index - min(step, LONGEST), index))
        carried = _segment(raw, reading, kind, video, key, earlier, str(index))
        return replace(sample, kind=kind, carried=carried)


FORMATS.add(MEMORY, Memory())


def split_id(value: Any) -> tuple[str, str]:
    """Video and key of `VIDEO*KEY`. Raises `FieldError`."""
    video, star, key = value.partition("*") if isinstance(value, str) else ("", "", "")
    key = key.removesuffix(".json")
    if not (video and star and key) or video in (".", "..") or "/" in video:
        problem = f"expected VIDEO*KEY, got {shown(value, 80)}"
        raise FieldError("id", problem, 'give "film*3" for segment 3 of "film"')
    return video, key


def _kind(raw: Mapping[str, Any]) -> str:
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in PLACES:
        known = " or ".join(f'"{name}"' for name in PLACES)
        raise FieldError("type", f"expected {known}, got {shown(kind, 60)}", "correct it")
    return kind


def _number(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        problem = "missing" if value is None else f"got {shown(value, 60)}"
        raise FieldError(name, problem, "give a whole number from 0")
    return value


def _chat(raw: Mapping[str, Any], reading: Reading) -> Sample:
    """The record's media and texts, places still empty."""
    given = raw["input"]
    if not isinstance(given, list):
        raise FieldError("input", f"expected a list of parts, got {kind_of(given)}", "give parts")
    messages = [{"role": "user", "content": given}]
    try:
        return parse_plain({"id": raw["id"], "messages": messages}, reading)
    except FieldError as error:
        field = error.field.replace("messages[0].content", "input").replace("messages", "input")
        raise FieldError(field, error.problem, error.fix, error.reason) from error


# --- places in the prompt ---------------------------------------------------------------------


def _last_text(sample: Sample) -> str:
    texts = [p["text"] for m in sample.messages for p in m["content"] if p["type"] == "text"]
    if not texts:
        raise FieldError("input", "has no text", "end it with what is asked")
    return texts[-1]


def _places(text: str) -> list[int]:
    return [found.start() for found in _BRACES.finditer(text) if found[0] == "{}"]


def _filled(
    messages: Sequence[dict[str, Any]], values: Sequence[str]
) -> tuple[dict[str, Any], ...]:
    """The chat with values in the places of its last text, by their order."""
    parts = list(messages[-1]["content"])
    last = max(i for i, part in enumerate(parts) if part["type"] == "text")
    parts[last] = {"type": "text", "text": put_in(parts[last]["text"], values)}
    return (*messages[:-1], {**messages[-1], "content": parts})


def put_in(text: str, values: Sequence[str]) -> str:
    """The text with each value in its place `{}`, in order.

    `{{` and `}}` become single braces where the whole text is written so, as a template of
    `str.format` has to be; the values' own braces stay as they are.
    """
    is_template = not any(found[0] in ("{", "}") for found in _BRACES.finditer(text))
    left = iter(values)

    def value(found: re.Match[str]) -> str:
        if found[0] == "{}":
            return next(left)
        return found[0][0] if is_template else found[0]

    return _BRACES.sub(value, text)


def preceding(text: str) -> str | None:
    """What a prompt that others have filled in tells of the part before: from the marker to the
    first blank line; None without a marker."""
    _, marker, rest = text.partition(MARKER)
    return re.split(r"\n[ \t]*\n", rest, maxsplit=1)[0].strip() if marker else None


@cache
def _warn_of_marker(file: str) -> None:
    log.warning(
        "%s: prompts without %r and without a place {}: judges are told nothing of what "
        "came before",
        file,
        MARKER,
    )


# --- files beside the records -----------------------------------------------------------------


def _segment(
    raw: Mapping[str, Any],
    reading: Reading,
    kind: str,
    video: str,
    key: str,
    earlier: tuple[str, ...],
    own: str,
) -> Segment:
    folder = raw["episodic_folder"]
    if not isinstance(folder, str) or not folder:
        raise FieldError("episodic_folder", f"got {kind_of(folder)}", "give a folder's path")
    place = Path(reading.media_root, folder, video)
    semantic, wants = None, ()  # type: tuple[tuple[str, str], ...] | None, tuple[str, ...]
    if kind == SEMANTIC:
        semantic, wants = _semantic(raw, place, int(own)), (own,)
        key = ""  # what it writes is no description of the segment
    told = dict.fromkeys((*earlier, *wants, *(of for of, _ in semantic or () if of)))
    if not told:
        return Segment(video, key, maps=(("", ()),), semantic=semantic)
    faces = _json(place / f"{video}_map.json", "episodic_folder")
    maps = [(name, _map(faces, name, place / f"{video}_map.json")) for name in told]
    maps.append(("", _map(faces, own, place / f"{video}_map.json")))
    return Segment(video, key, earlier, wants, tuple(maps), semantic)


def _map(faces: Any, key: str, file: Path) -> FaceMap:
    """The faces of a segment. Raises `FieldError`."""
    found = faces.get(key) if isinstance(faces, dict) else None
    if not isinstance(found, dict):
        problem = f"{file}: expected the faces of segment {key!r}, got {kind_of(found)}"
        raise FieldError("episodic_folder", problem, 'give {"[face_n]": "<face_m>"}, or {}')
    try:
        for names in found.items():
            _ = [face_number(name) if isinstance(name, str) else _no_name(name) for name in names]
    except ValueError as error:
        problem = f"{file}: segment {key!r}: {error}"
        raise FieldError("episodic_folder", problem, "correct the map") from error
    return tuple(found.items())


def _no_name(value: Any) -> int:
    raise ValueError(f"expected <face_n> or [face_n], found {kind_of(value)}")


def _semantic(raw: Mapping[str, Any], place: Path, index: int) -> tuple[tuple[str, str], ...]:
    """The semantic memories so far: all of a list, or those of earlier segments of an object."""
    tag = raw.get("memory_tag")
    if not isinstance(tag, str) or not tag or "/" in tag:
        raise FieldError("memory_tag", f"got {shown(tag, 60)}", "name episodic_<memory_tag>.json")
    file = place / f"episodic_{tag}.json"
    found = _json(file, "memory_tag")
    if isinstance(found, list):
        return tuple(("", text) for text in _texts(found, file))
    if not isinstance(found, dict) or not all(name.isdecimal() for name in found):
        problem = f"{file}: expected a list of texts, or texts by segment, got {kind_of(found)}"
        raise FieldError("memory_tag", problem, "correct the file")
    before = sorted((int(name), name) for name in found if int(name) < index)
    return tuple((name, text) for _, name in before for text in _texts(found[name], file))


def _texts(value: Any, file: Path) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        problem = f"{file}: expected texts, got {kind_of(wrong[0])}"
        raise FieldError("memory_tag", problem, "correct the file")
    return texts


def _json(file: Path, field: str) -> Any:
    """What a JSON file beside the records holds; read once by each process while it is unchanged.
    Raises `FieldError`."""
    try:
        return _read(str(file), os.stat(file).st_mtime_ns)
    except OSError as error:
        problem = f"{file} cannot be read: {error.strerror or error}"
        raise FieldError(field, problem, "correct the folder, or add the file") from error
    except ValueError as error:
        raise FieldError(field, f"{file}: {error}", "correct the file") from error


@lru_cache(maxsize=256)
def _read(file: str, changed: int) -> Any:
    return loads(Path(file).read_text(encoding="utf-8"))
