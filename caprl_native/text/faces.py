"""Names of faces in texts: `<face_3>` is the third face of a segment, `[face_3]` of a whole video.

Models write them in many ways ("Face 3", "(face_3)", "face3"). A mention is found as a whole word
and replaced in one pass, so that face 1 is not found in face 10, nor a face in "surface 5".
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence

from caprl_native.messages import shown

_TAG = re.compile(r"<face_[0-9]+>")
_WORD = r"(?<![A-Za-z0-9_])face"  # letters of other scripts may stand right beside it
_LOOSE = re.compile(rf"{_WORD}[\s_]*[0-9]|<face>", re.IGNORECASE)
_MENTION = re.compile(rf"([<(]?){_WORD}[\s_]*([0-9]+)([>)]?)", re.IGNORECASE)
_ID = re.compile(r"[<\[]face_([0-9]+)[>\]]")


def has_loose_faces(text: str) -> bool:
    """Whether a text names a face in any other way than `<face_n>`: "face 1", "<Face_1>", or the
    bare mark `<face>`."""
    return bool(_LOOSE.search(_TAG.sub("\0", text)))


def unified(text: str) -> str:
    """All mentions of numbered faces as `<face_n>`; a bracket of an open pair is left alone."""

    def tag(found: re.Match[str]) -> str:
        opening, number, closing = found.groups()
        before = text[: found.start()]
        closes_another = closing == ")" and not opening and before.count("(") > before.count(")")
        return f"<face_{number}>{closing if closes_another else ''}"

    return _MENTION.sub(tag, text)


def face_number(name: str) -> int:
    """The number of `<face_n>` or `[face_n]`.

    Raises:
        ValueError: it is neither.
    """
    found = _ID.fullmatch(name)
    if found is None:
        raise ValueError(f"expected <face_n> or [face_n], found {shown(name)}")
    return int(found[1])


def relabelled(
    texts: Sequence[str], maps: Sequence[Mapping[str, str]], current: Mapping[str, str]
) -> list[str]:
    """Texts of several segments, oldest first, in the face names of the `current` one.

    `maps`: of each text's segment, and `current`: from the video's names ("[face_5]") to the
    segment's ("<face_1>"). A face that the current segment does not show gets a new number, from
    len(current) + 1 on, in the order in which such faces are first named. Numbers that are taken
    are left out. A name that its own segment's map lacks is somebody unknown: it keeps its number
    where nobody else has it.

    Raises:
        ValueError: a map holds something else than names of faces.
    """
    numbers = _Numbers({face_number(g): face_number(own) for g, own in current.items()})
    return [
        _renamed(text, place, {face_number(own): face_number(g) for g, own in of.items()}, numbers)
        for place, (text, of) in enumerate(zip(texts, maps, strict=True))
    ]


def _renamed(text: str, place: int, to_video: Mapping[int, int], numbers: _Numbers) -> str:
    def tag(found: re.Match[str]) -> str:
        own = face_number(found[0])
        known = own in to_video
        number = numbers.of(to_video[own]) if known else numbers.of((place, own), wish=own)
        return f"<face_{number}>"

    return _TAG.sub(tag, unified(text))


class _Numbers:
    """Which number each face has in the current segment."""

    def __init__(self, current: Mapping[int, int]) -> None:
        self._given: dict[Hashable, int] = dict(current)
        self._taken = set(current.values())
        self._next = len(current) + 1

    def of(self, face: Hashable, wish: int | None = None) -> int:
        """The number of a face, a new one where it has none: `wish`, if that is free."""
        if face not in self._given:
            is_free = wish is not None and wish not in self._taken
            self._given[face] = wish if wish is not None and is_free else self._free()
            self._taken.add(self._given[face])
        return self._given[face]

    def _free(self) -> int:
        while self._next in self._taken:
            self._next += 1
        return self._next
