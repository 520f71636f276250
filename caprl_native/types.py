"""What flows through a run: samples in, rollouts and groups out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Modality = Literal["image", "video", "text"]


@dataclass(frozen=True)
class Question:
    """A multiple-choice question. `choices` carry no labels; `answer` indexes the right one.

    `weight`: how often it is drawn, beside the others of its sample.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    weight: float = field(default=1.0, repr=False)


@dataclass(frozen=True)
class MediaRef:
    """An image or a video: a file (`path`) or the encoded file's bytes (`data`), never both.

    Of a video, `start` and `end` (seconds) may choose a clip, and `path` may be a folder of images
    (.jpg or .png, in natural order), which are its frames at `fps` per second.
    """

    kind: Literal["image", "video"]
    path: str | None = None
    data: bytes | None = field(default=None, repr=False)
    label: str = ""  # of embedded files: where they came from
    start: float | None = None
    end: float | None = None
    fps: float | None = None  # of folders only; a file has its own

    @property
    def name(self) -> str:
        return self.path or self.label or f"<{len(self.data or b'')} embedded bytes>"


@dataclass(frozen=True)
class Carried(ABC):
    """How a sample's prompt is made of what captions of earlier samples left, and what its own
    leave. A record format derives from it; its `repr` is part of the data's identity.

    `series`: samples that know each other's texts, those of a video, say. `key`: the name of its
    own text in the series; "": it leaves none. `needs`: the keys of the texts that its prompt is
    made of; `wants`: of those that go in where they are there.
    """

    series: str
    key: str
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()

    @abstractmethod
    def filled(self, sample: Sample, texts: Mapping[str, str]) -> Sample:
        """The sample with its messages made of these texts, by key: all that it needs, and what
        there is of those that it wants."""

    @abstractmethod
    def text_of(self, written: str) -> str | None:
        """The text that a response of the policy leaves; None where it has not the right form."""


@dataclass(frozen=True)
class Sample:
    """One record of a data set.

    `messages` is a chat in the Hugging Face template's form: each `content` is a list of parts,
    `{"type": "text", "text": ...}`, `{"type": "image"}` or `{"type": "video"}`; the n-th media part
    stands for `media[n]`. `response` is set in supervised data only.

    `stage`: its place in the curriculum. `carried`: how its messages are made of what captions of
    other samples left behind, and what its own leave. `kind`: what the record calls itself.
    """

    id: str
    media: tuple[MediaRef, ...]
    messages: tuple[dict[str, Any], ...]
    questions: tuple[Question, ...] = ()
    response: str | None = None
    source: str = ""  # "file:line", for error messages
    seconds: float | None = None  # of its longest video (or clip); None: nobody has decoded it
    stage: int = 0
    carried: Carried | None = None
    context: str | None = None  # what the prompt tells beside the media, for judges; None: unknown
    kind: str = ""

    @property
    def modality(self) -> Modality:
        """`video` if any medium is one, else `image`, else `text`."""
        kinds = {m.kind for m in self.media}
        return "video" if "video" in kinds else "image" if kinds else "text"


@dataclass
class Rollout:
    """One caption written by the policy, and all that was learnt about it."""

    token_ids: list[int]
    logprobs: list[float]  # the engine's, nats, of the distribution that was sampled from
    finish_reason: str  # "stop" or "length"
    text: str
    rewards: dict[str, float] = field(default_factory=dict)  # by term
    parts: dict[str, float] = field(default_factory=dict)  # what terms are made of, "term/part"
    total: float | None = None  # None: the reward is missing, never zero
    utility: float | None = None  # the total without what shapes captions (length, time stamps)
    advantage: float = 0.0
    failure: str | None = None  # why the reward is missing
    reading: list[dict[str, Any]] = field(
        default_factory=list
    )  # the reader's questions and answers
    thoughts: tuple[int, int] = (0, 0)  # its tokens from .. to that are thought; then the answer

    @property
    def thinking_tokens(self) -> int:
        """Tokens of its thoughts, without the marks around them."""
        return self.thoughts[1] - self.thoughts[0]

    @property
    def answer_tokens(self) -> int:
        """Tokens from the mark that closes the thoughts to the end, both included."""
        return len(self.token_ids) - self.thoughts[1]


@dataclass
class Group:
    """A sample with its n rollouts. `prompt` is the family's prepared, opaque prompt."""

    sample: Sample
    prompt: Any
    rollouts: list[Rollout]

    @property
    def scored(self) -> list[Rollout]:
        return [r for r in self.rollouts if r.total is not None]
