"""A model that looks at media and judges a caption of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from caprl_native.types import MediaRef, Sample

if TYPE_CHECKING:
    from caprl_native.inference.models import Decoded

MediaKey = tuple[str, tuple[MediaRef, ...]]


J = TypeVar("J")  # what a judge says, once it is read


@dataclass(frozen=True)
class Case(Generic[J]):
    """One caption before the judge, or several.

    `sample`: the media, and the chat that asks for a judgement. `read`: the judgement in a reply;
    raises `Unreadable`. `decoded`: the pixels of the media; raises `MediaError`. `seeds`: of the
    first reply, and of those that are asked for when the ones before cannot be read.
    """

    sample: Sample
    read: Callable[[str], J]
    decoded: Callable[[], list[Decoded]]
    seeds: tuple[int, ...]

    @property
    def media(self) -> MediaKey:
        """What its pixels are kept under: a client of the reward service may give ids twice."""
        return self.sample.id, self.sample.media


@dataclass(frozen=True)
class Cost:
    """What was spent: requests, those among them that were further attempts, tokens."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.retries + other.retries,
            self.prompt_tokens + other.prompt_tokens,
            self.reply_tokens + other.reply_tokens,
        )


@dataclass(frozen=True)
class Verdict(Generic[J]):
    """A judgement, or why there is none. `unreadable`: how many replies could not be read."""

    judgement: J | None
    failure: str | None = None
    unreadable: int = 0
    cost: Cost = Cost()


class Judge(Protocol):
    collective: bool
    """True: all ranks that share the policy's engine ask the same, and all get the verdicts."""

    def ask(self, case: Case[J]) -> Future[Verdict[J]]:
        """Takes a case; its verdict comes with `work` and `finish`, or from elsewhere."""
        ...

    def work(self) -> None: ...
    def finish(self) -> None: ...
    def reset(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...
