"""Models that write captions, answer questions, and judge: vLLM in process, or an endpoint.

`complete` takes requests as it has room for them and yields replies as they end, so that media
are decoded a few requests ahead and never all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from caprl_native.data.media import DecodedImage, DecodedVideo, MediaError
from caprl_native.inference.pictures import strip_times, thumbnail
from caprl_native.inference.store import Reply
from caprl_native.types import MediaRef, Sample

Decoded = DecodedImage | DecodedVideo


@dataclass(frozen=True)
class Drawn:
    """How the tokens of a request are drawn, where not as the model's settings say."""

    temperature: float
    top_p: float


@dataclass(frozen=True)
class Request:
    """A chat, and how many replies it gets: reply i goes under `keys[i]`, drawn with `seed` + i.

    With media, `messages` have the form of `Sample`'s; else each turn's content is a text.
    """

    keys: tuple[str, ...]
    messages: tuple[dict[str, Any], ...]
    seed: int
    name: str = ""  # for messages about its media
    media: tuple[MediaRef, ...] = ()
    prefix: str = ""  # opens the model's turn; the reply goes on from there
    drawn: Drawn | None = None
    pictured: bool = False  # results show what its media look like, for a report

    @property
    def sample(self) -> Sample:
        """The media and the chat about them, as decoders and prompt builders take them."""
        return Sample(self.name, self.media, self.messages)


@dataclass(frozen=True)
class Picture:
    """What the report shows of a medium: a data URI; of a video also its length and frame times."""

    uri: str
    duration: float | None = None
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Result:
    """A reply, and what the media that it is about look like."""

    key: str
    reply: Reply
    pictures: tuple[Picture, ...] = field(default=(), repr=False)


class Model(Protocol):
    def complete(self, requests: Iterable[Request | None]) -> Iterator[Result]:
        """A result for every key of every request, in the order in which they end.

        A None among the requests: none is there just now. Replies that are under way go on, and
        when one has ended the next is asked for; where nothing is under way, that is the end.
        """
        ...

    def close(self) -> None: ...


# How failures begin that another model, or a later run, would meet as well.
OF_INPUT = ("media: ", "prompt: ", "crash: ", "refused: ")


def is_of_input(failure: str) -> bool:
    """Whether a request failed for what it is, not for want of a model that answers."""
    return failure.startswith(OF_INPUT)


def failed(request: Request, reason: str) -> Iterator[Result]:
    """The same failure under all keys of a request."""
    return (Result(key, Reply(failure=reason)) for key in request.keys)


def unprepared(error: Exception) -> str:
    """Why a request has no prompt: one odd record is one failure, whatever it makes raise."""
    if isinstance(error, MediaError):
        return f"media: {error}"
    return f"prompt: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def pictures_of(request: Request, decoded: Sequence[Decoded]) -> tuple[Picture, ...]:
    """Small pictures of a request's media where it is `pictured`."""
    return tuple(picture_of(d) for d in decoded) if request.pictured else ()


def picture_of(decoded: Decoded) -> Picture:
    """A small picture, or a strip of frames."""
    if isinstance(decoded, DecodedImage):
        return Picture(thumbnail(decoded))
    times = strip_times(decoded)
    return Picture(thumbnail(decoded), decoded.metadata["duration"], tuple(times))
