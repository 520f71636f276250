"""A model that reads captions and answers questions on them, never seeing the media."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Ask:
    """One question to the reader: the chat up to the reader's turn, and the seed of its answer.

    With `choices`, the texts that the chat letters A, B, ..., no answer is drawn: the reader says
    how likely it is to choose each.
    """

    messages: list[dict[str, Any]]
    seed: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the reader went on with after "The answer is", or why it did not.

    Of a question with `choices`, `probabilities` in their place: one of each choice, at the
    reader's own temperature; what they lack to 1 is no answer. A reader that cannot tell two
    choices apart by probabilities gives a `text` all the same.
    """

    text: str | None
    failure: str | None = None
    probabilities: tuple[float, ...] | None = None


class Reader(Protocol):
    collective: bool
    """True: all ranks that share the policy's engine ask the same, and all get the answers."""

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        """Takes questions; their answers come with `work` and `finish`."""
        ...

    def work(self) -> None:
        """Goes on with what was asked, as long as the reader would otherwise have enough to do."""
        ...

    def finish(self) -> None:
        """Goes on until all that was asked is answered, or under way to somebody else."""
        ...

    def reset(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


def answers_to(reader: Reader, asks: Sequence[Ask]) -> list[Answer]:
    """The answers, in order."""
    answers = reader.ask(asks)
    reader.finish()
    return [answer.result() for answer in answers]
