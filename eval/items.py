"""What flows through an evaluation: items in, captions, answers and verdicts out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from caprl_native.types import MediaRef

CAPTION = "\0caption\0"  # where the caption goes in a chat that the data prescribe


@dataclass(frozen=True)
class Item:
    """One question of a benchmark on one image or video.

    `choices` carry no labels and are shown as A, B, C, ...; an open question has none. `answer` is
    the gold as the benchmark's rule takes it (a letter where there are choices). `groups` are the
    kinds that scores are broken down by, e.g. `{"duration": "short"}`. `chat` is the reader's chat
    where the data prescribe it, with `CAPTION` in it; `subtitles` are read beside the caption;
    `prompt` is the captioner's chat (as in `Sample`) where the data have one. `caption_ids` name
    what is captioned in files of captions made elsewhere, where several items share a caption.
    """

    id: str
    media: tuple[MediaRef, ...]
    question: str
    answer: Any
    choices: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)
    chat: tuple[dict[str, str], ...] = ()
    subtitles: str = ""
    prompt: tuple[dict[str, Any], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    caption_ids: tuple[str, ...] = ()
    source: str = ""  # "file:line"
    record: Any = field(default=None, repr=False)  # as it stood in the file

    @property
    def modality(self) -> Literal["image", "video"]:
        """`video` if any medium is one, else `image`."""
        return "video" if any(m.kind == "video" for m in self.media) else "image"


@dataclass(frozen=True)
class Broken:
    """A row of an annotation file that is no item: where it stands, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth. `said`: the answer that was understood, None if none was.

    `detail`: what a rule wants shown beside it in the report.
    """

    score: float
    said: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ToJudge:
    """A rule cannot decide: a language model is asked this.

    `read` makes of its reply a verdict, a further step that depends on it, or None where it cannot
    be read. Without it `Benchmark.judged` does.
    """

    messages: list[dict[str, Any]]
    read: Callable[[str], Verdict | ToJudge | None] | None = None
