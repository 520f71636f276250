"""What a record format is: which records are written in it, and how one becomes a `Sample`.

A format is one file: a subclass of `RecordFormat`, and `FORMATS.add(name, TheFormat())`. It is
found in this folder, or because the config names its file under `plugins`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from caprl_native.data.fields import FieldError
from caprl_native.data.invalid import WrongQuestion, never
from caprl_native.registry import Registry
from caprl_native.types import MediaRef, Sample

Kind = Literal["questions", "media", "response"]


@dataclass(frozen=True)
class Reading:
    """What records are read for: the settings of the data file that a record lies in."""

    kind: Kind  # what a sample must have: media and questions, media alone, a response to learn
    source: str  # "file:line", for `Sample.source`
    default_id: str  # of a record without one
    media_root: str  # folder that relative media paths start from
    prompt_override: str = ""  # replaces what the user says, if given
    max_media: int = 0  # in one prompt; 0: any number
    dropped: list[WrongQuestion] | None = None  # where wrong questions go; None: they are errors
    no_answer: Callable[[str], bool] = never  # whether a choice says that there is no answer

    def check_some_media(self, media: list[MediaRef]) -> None:
        """Raises `FieldError` where there would be nothing to caption."""
        if self.kind != "response" and not media:
            raise FieldError(
                "images",
                "no image and no video",
                "give image, images, video or videos",
                "no media",
            )

    def check_not_too_many(self, media: list[MediaRef]) -> None:
        """Raises `FieldError` for more media than one prompt may have."""
        if self.max_media and len(media) > self.max_media:
            raise FieldError(
                "images" if media[0].kind == "image" else "videos",
                f"{len(media)} media in one prompt, more than media.max_per_prompt = "
                f"{self.max_media}",
                "raise that setting, or remove the record",
            )


class RecordFormat(ABC):
    """A layout of records. Nothing is read from disk in it, and nothing is repaired."""

    @abstractmethod
    def matches(self, raw: dict[str, Any]) -> bool:
        """Whether a record is written in this format; told by its fields alone."""

    @abstractmethod
    def parse(self, raw: dict[str, Any], reading: Reading) -> Sample:
        """The sample that a record describes. Raises `FieldError`.

        A layout that differs in a few fields may rename them, and leave the rest to `parse_plain`.
        In the check at the start embedded files' bytes are empty.
        """


FORMATS: Registry[RecordFormat] = Registry("record format", "caprl_native.data.record_formats")
