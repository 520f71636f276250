"""What a reward is made of: terms, each of which scores a caption, or gives a reason.

A term is one file, here under `rewards/terms/` or in a module that the config names in `plugins`.
The name of its type, its options and its class stand in it, and nothing else lists them:

    class WordsOptions(TermOptions):
        '''How many different words a caption has.'''

        type: Literal["words"] = "words"
        enough: int = Field(50, ge=1, description="From this many on the reward is 1.")


    @TERMS.register(WordsOptions)
    class Words(RewardTerm[WordsOptions]):
        def submit(self, caption: Caption) -> Future[Score]:
            return finished(min(1.0, len(set(caption.text.split())) / self.options.enough))

The config turns it on, once or several times under different names:

    [reward.terms.words]
    weight = 0.1

Its values are then part of the total, of the metrics (`reward/words/mean`) and of the rollout log.
A caption that it cannot score has a `missing` score, and the whole reward is missing with its
reason; one that it has nothing to say on (no video) has the score `NOT_APPLICABLE`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field

from caprl_native.messages import cut
from caprl_native.redact import redact
from caprl_native.registry import Options, Registry
from caprl_native.types import Sample

if TYPE_CHECKING:
    from caprl_native.observe.metrics import Metric
    from caprl_native.rewards.readers.base import Reader


_REASON = 500  # characters of an exception's text


@dataclass(frozen=True)
class Caption:
    """One caption to score. `key` names it among all captions of a run, and seeds its draws; all
    but its last part, the rollout's number, names its group.

    `text` is what the policy said outside its thoughts; `tokens` counts them too. `media` gives the
    prompt that it was written from in vLLM's form, decoded media under "multi_modal_data"; None:
    nobody has decoded them, they are in the sample's files. `raw` is all that the policy wrote,
    `thinking_tokens` and `answer_tokens` are of its two parts, as `Rollout` has them.
    """

    sample: Sample
    text: str
    tokens: int
    key: tuple[int | str, ...]
    media: Callable[[], Mapping[str, Any]] | None = None
    raw: str = ""
    thinking_tokens: int = 0
    answer_tokens: int = 0


@dataclass
class Score:
    """A reward, or the reason why there is none; never a zero in place of one that failed.

    `reading` explains it in the rollout log, e.g. the reader's questions and answers. `parts` are
    numbers that it is made of, by name: they are logged (`reward/TERM/PART`) and not rewarded;
    `TermOptions.measures` says what they mean.
    """

    value: float | None
    failure: str | None = None
    reading: list[dict[str, Any]] = field(default_factory=list)
    applies: bool = True
    parts: dict[str, float] = field(default_factory=dict)


NOT_APPLICABLE = Score(None, applies=False)
"""Of a term that has nothing to say on a sample: it adds nothing, and nothing is missing."""


def missing(reason: str) -> Score:
    """The score of a caption that could not be scored."""
    return Score(None, failure=reason)


def reason_of(error: BaseException) -> str:
    """An exception as the reason of a missing score, without keys that it may quote."""
    return f"{type(error).__name__}: {cut(redact(str(error)), _REASON)}"


def finished(score: Score | float) -> Future[Score]:
    """What a term hands out that knows its score at once."""
    future: Future[Score] = Future()
    future.set_result(score if isinstance(score, Score) else Score(score))
    return future


T = TypeVar("T")
U = TypeVar("U")


def gathered(parts: Sequence[Future[T]], made: Callable[[list[T]], U]) -> Future[U]:
    """What is made of several results, in their order, as soon as the last one is there.

    It fails as the first of them that fails does, or as `made` does.
    """
    whole: Future[U] = Future()
    left, lock = len(parts), threading.Lock()

    def one_more(_: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            done = left <= 0
        if done:
            _settle(whole, lambda: made([part.result() for part in parts]))

    for part in parts:
        part.add_done_callback(one_more)
    if not parts:
        one_more(None)
    return whole


def _settle(whole: Future[U], result: Callable[[], U]) -> None:
    """Callbacks swallow what they raise, and whoever waits would wait for ever."""
    try:
        whole.set_result(result())
    except BaseException as error:
        whole.set_exception(error)


_SHAPING = (
    "It shapes captions and says nothing of what they tell: reward.gate applies to it, and a group "
    "that differs in such terms alone carries no gradient (algorithm.flat)."
)


class TermOptions(Options):
    """The settings that all reward terms have."""

    reads: ClassVar[bool] = False
    """True: the term asks the reader, so that the config has to say who that is."""

    measures: ClassVar[Mapping[str, str]] = {}
    """What its parts, and its numbers of a step, mean, by name; "*": all that are not named."""

    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="What its values are multiplied by in the sum; 0: they are not computed.",
    )
    shaping: bool = Field(False, description=_SHAPING)

    @property
    def engine_shares(self) -> dict[str, float]:
        """The shares of a GPU's memory that engines of its own take here, by the key that says so;
        empty: it has none."""
        return {}

    @property
    def needs_questions(self) -> bool:
        """Whether it can only score samples that have questions."""
        return self.reads


class ShapingOptions(TermOptions):
    """The settings of a term that shapes captions, by itself or with others."""

    shaping: bool = Field(True, description=_SHAPING)


def any_reads(terms: Mapping[str, TermOptions]) -> bool:
    """Whether a reader is needed for what these terms compute."""
    return any(options.reads and options.weight for options in terms.values())


def any_needs_questions(terms: Mapping[str, TermOptions]) -> bool:
    """Whether samples without questions are of no use to these terms."""
    return any(options.needs_questions and options.weight for options in terms.values())


O = TypeVar("O", bound=TermOptions)  # noqa: E741


@dataclass
class TermContext:
    """What terms may need of the run. What they share is built by the first that asks for it."""

    build_reader: Callable[[], Reader]
    seed: int = 0
    tp_size: int = 1
    build_further_readers: Callable[[], list[Reader]] = list

    @cached_property
    def reader(self) -> Reader:
        """The model that answers questions on captions."""
        return self.build_reader()

    @cached_property
    def further_readers(self) -> list[Reader]:
        """Models that answer the same questions beside it."""
        return self.build_further_readers()

    @property
    def readers(self) -> list[Reader]:
        """Those that were built."""
        built = vars(self)
        return [
            *([built["reader"]] if "reader" in built else []),
            *built.get("further_readers", []),
        ]


class RewardTerm(ABC, Generic[O]):
    """Scores captions by one criterion. All but `submit` is for terms that hold something.

    What the context hands out (the reader) is driven, emptied, put to sleep and closed by the sum.
    """

    collective = False
    """True: all ranks that share the policy's engine submit the same, and all get the scores."""

    def __init__(self, options: O, context: TermContext) -> None:
        self.options, self.context = options, context

    @abstractmethod
    def submit(self, caption: Caption) -> Future[Score]:
        """Takes a caption. Its score is there at once, or comes with `work` and `finish`, or from
        elsewhere; an exception in the future is a missing reward."""

    def submit_group(
        self, captions: Sequence[Caption], scores: Sequence[Future[Score]]
    ) -> list[Future[Score]]:
        """Takes all captions of a sample, in their order, once the last of them is there, each with
        the score that `submit` gave for it; returns the scores that count.

        For terms that score captions beside one another. A sample's captions are all on one rank.
        """
        return list(scores)

    def metrics(self) -> dict[str, Metric]:
        """Numbers of the step that are of no single caption: this rank's part of them, by name;
        logged as `reward/TERM/NAME`."""
        return {}

    def for_evaluation(self, draws: int) -> Self:
        """The term that scores held-out captions; `draws` questions each where it draws any."""
        return self

    def begin(self, step: int) -> None:
        """Forgets the captions before: a step does not depend on those before it."""

    def work(self) -> None:
        """Goes on with what was submitted, as long as there is enough to fill a batch."""

    def finish(self) -> None:
        """Goes on until all that was submitted is scored, or under way to somebody else."""

    def sleep(self) -> None:
        """On CUDA, gives memory back while the policy trains."""

    def wake(self) -> None:
        """Takes it again."""

    def close(self) -> None:
        """The run is over."""


TERMS: Registry[type[RewardTerm[Any]]] = Registry("reward term", "caprl_native.rewards.terms")
