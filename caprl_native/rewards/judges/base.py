"""A model that looks at media and judges a caption of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from caprl_native.rewards.judges.reply import Judgement
from caprl_native.types import MediaRef, Sample

if TYPE_CHECKING:
    from caprl_native.inference.models import Decoded

MediaKey = tuple[str, tuple[MediaRef, ...]]


@dataclass(frozen=True)
class Case:
    """One caption before the judge.

    `sample`: the media, and the chat that asks for a judgement with these `keys`. `decoded`: the
    pixels of the media; raises `MediaError`. `seeds`: of the first reply, and of those that are
    asked for when the ones before cannot be read.
    """

    sample: Sample
    keys: tuple[str, ...]
    decoded: Callable[[], list[Decoded]]
    seeds: tuple[int, ...]

    @property
    def media(self) -> MediaKey:
        """What its pixels are kept under: a client of the reward service may give ids twice."""
        return self.sample.id, self.sample.media


@dataclass(frozen=True)
class Verdict:
    """A judgement, or why there is none. `unreadable`: how many replies could not be read."""

    judgement: Judgement | None
    failure: str | None = None
    unreadable: int = 0


class Judge(Protocol):
    collective: bool
    """True: all ranks that share the policy's engine ask the same, and all get the verdicts."""

    def ask(self, case: Case) -> Future[Verdict]:
        """Takes a case; its verdict comes with `work` and `finish`, or from elsewhere."""
        ...

    def work(self) -> None: ...
    def finish(self) -> None: ...
    def reset(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...
