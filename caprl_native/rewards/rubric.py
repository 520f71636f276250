"""The whole reward: `R = sum of weight * value` over the terms that apply to a sample."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from caprl_native.rewards.base import (
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermContext,
    TermOptions,
    finished,
    missing,
    reason_of,
)
from caprl_native.rewards.opened import Open
from caprl_native.text.thoughts import without_thoughts
from caprl_native.types import Group, Rollout, Sample

if TYPE_CHECKING:
    from caprl_native.config.reward import RewardConfig
    from caprl_native.observe.metrics import Metric
    from caprl_native.rewards.held_out import HeldOut
    from caprl_native.rewards.readers.base import Reader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightedTerm:
    """A term under the name that the config gives it."""

    name: str
    weight: float
    term: RewardTerm[Any]

    @property
    def shapes(self) -> bool:
        """Whether it says nothing of what a caption tells."""
        return self.term.options.shaping

    def submit(self, caption: Caption) -> Future[Score]:
        """As the term does; what it raises is the reason of a missing score.

        Not so where several ranks work on the score together: on the others it would come, and
        what they do next would differ.
        """
        try:
            return self.term.submit(caption)
        except Exception as error:
            if self.term.collective:
                raise
            return finished(missing(f"reward.terms.{self.name}: {reason_of(error)}"))

    def submit_group(
        self, captions: Sequence[Caption], scores: Sequence[Future[Score]]
    ) -> list[Future[Score]]:
        """As the term does; what it raises is the reason of all scores, as in `submit`."""
        try:
            return self.term.submit_group(captions, scores)
        except Exception as error:
            if self.term.collective:
                raise
            reason = f"reward.terms.{self.name}: {reason_of(error)}"
            return [finished(missing(reason)) for _ in captions]

    def outcome(self, future: Future[Score]) -> Score:
        """Waits for a score. One that is no finite number is missing."""
        try:
            error = future.exception()
        except CancelledError as cancelled:
            error = cancelled
        if error is not None:
            return missing(f"reward.terms.{self.name}: {reason_of(error)}")
        score = future.result()
        if not score.applies or score.failure:
            return replace(score, value=None)
        if score.value is None or not math.isfinite(score.value):
            return missing(f"reward.terms.{self.name}: its value is {score.value}")
        return score


class Rubric:
    """The terms of a run, in the config's order. Scores rollouts in place.

    Draws depend on the run's seed, the step, the sample and the rollout's number alone.
    `overlap`: terms get each caption when it is added, not all at the end. `gate`: see `fill`.
    """

    def __init__(
        self,
        terms: Sequence[WeightedTerm],
        context: TermContext,
        *,
        overlap: bool = True,
        gate: bool = False,
    ) -> None:
        self.terms, self.context, self.overlap, self.gate = terms, context, overlap, gate
        self.held_out: HeldOut | None = None

    @classmethod
    def of(
        cls,
        options: Mapping[str, TermOptions],
        context: TermContext,
        *,
        overlap: bool = True,
        gate: bool = False,
    ) -> Rubric:
        """The terms of these names; those without weight are left out, with all that they need."""
        terms = [
            WeightedTerm(name, o.weight, TERMS[o.type].value(o, context))
            for name, o in options.items()
            if o.weight
        ]
        return cls(terms, context, overlap=overlap, gate=gate)

    def for_evaluation(self, draws: int) -> Rubric:
        """The same for held-out captions; it shares what it can, and is not to be closed."""
        terms = [replace(t, term=t.term.for_evaluation(draws)) for t in self.terms]
        return Rubric(terms, self.context, overlap=self.overlap, gate=self.gate)

    @property
    def names(self) -> list[str]:
        """Of the terms, in the order of the sum."""
        return [term.name for term in self.terms]

    def begin(self, step: int) -> Scoring:
        """For a step's captions, which come one by one; forgets those before."""
        for reader in self._readers():
            reader.reset()
        for t in self.terms:
            t.term.begin(step)
        return Scoring(self, step)

    def work(self) -> None:
        """Lets models in this process go on, as long as they have enough to fill a batch."""
        for part in self._parts():
            part.work()

    def finish(self) -> None:
        """Lets them go on until all is scored, or under way to somebody else."""
        for part in self._parts():
            part.finish()

    def metrics(self) -> dict[str, Metric]:
        """What the terms count beside captions, this rank's part of it."""
        return {
            f"reward/{t.name}/{name}": metric
            for t in self.terms
            for name, metric in t.term.metrics().items()
        }

    def sleep(self) -> None:
        """On CUDA, gives memory back while the policy trains."""
        for part in self._parts():
            part.sleep()

    def wake(self) -> None:
        """Takes it again."""
        for part in self._parts():
            part.wake()

    def close(self) -> None:
        """Ends engines, threads and requests under way."""
        for part in self._parts():
            part.close()

    def _parts(self) -> Iterator[Any]:
        """The terms, then what they share: a term that finishes may still have to ask."""
        yield from (t.term for t in self.terms)
        yield from self._readers()

    def _readers(self) -> list[Reader]:
        return [*self.context.readers, *(self.held_out.readers if self.held_out else [])]


def build_rubric(config: RewardConfig, seed: int, tp_size: int = 1) -> Rubric:
    """What the config asks for; a reader is started where a term reads."""
    from caprl_native.rewards.held_out import build_held_out
    from caprl_native.rewards.readers import build_reader

    context = TermContext(
        lambda: build_reader(config.reader, tp_size),
        seed,
        tp_size,
        lambda: [build_reader(reader, tp_size) for reader in config.readers],
    )
    rubric = Rubric.of(config.terms, context, overlap=overlaps(config), gate=config.gate)
    rubric.held_out = build_held_out(config, seed, tp_size)
    return rubric


def overlaps(config: RewardConfig) -> bool:
    """Whether captions are scored while others are written.

    Against a server that computes elsewhere it is 1.31 times as fast (benchmarks/README.md). A
    reader in process takes turns with the policy's engine in one thread on one device: 0.94 on a
    CPU, and not measured on a GPU, where the kernels of both would queue on one stream.
    """
    if config.overlap != "auto":
        return config.overlap == "on"
    judged_here = any(options.engine_shares for options in config.terms.values())
    return not (judged_here or config.in_process)


@dataclass
class Scoring:
    """The captions of a step on their way through the terms."""

    rubric: Rubric
    step: int
    _open: list[Open] = field(default_factory=list)
    _groups: dict[int, list[Open]] = field(default_factory=dict)  # not complete; by the sample's id

    def add(
        self,
        sample: Sample,
        index: int,
        rollout: Rollout,
        *,
        is_local: bool = True,
        media: Callable[[], Mapping[str, Any]] | None = None,
        of: int | None = None,
    ) -> None:
        """Takes rollout `index` of a sample; with `overlap` the terms get it now. `media`: as
        `Caption` has it. `of`: how many the sample has, so that its group is known to be complete
        before the step ends; None: nobody knows.

        They see what the policy said outside its thoughts. A caption of another rank of the group
        (not `is_local`) goes to collective terms alone, and its rollout stays as it is.
        """
        key = (self.rubric.context.seed, self.step, sample.id, index)
        caption = Caption(
            sample,
            without_thoughts(rollout.text),
            len(rollout.token_ids),
            key,
            media,
            rollout.text,
            rollout.thinking_tokens,
            rollout.answer_tokens,
        )
        opened = Open(rollout, caption, is_local)
        self._open.append(opened)
        group = self._groups.setdefault(id(sample), [])
        group.append(opened)
        if self.rubric.overlap:
            self._submit(opened)
            if len(group) == of:
                self._submit_group(self._groups.pop(id(sample)))

    def _submit(self, opened: Open) -> None:
        opened.scores = {
            t.name: t.submit(opened.caption)
            for t in self.rubric.terms
            if opened.is_local or t.term.collective
        }

    def _submit_group(self, group: Sequence[Open]) -> None:
        """Tells the terms that a sample's captions are complete."""
        group = sorted(group, key=lambda opened: opened.caption.key[-1])
        for term in self.rubric.terms:
            given = [(o.caption, o.scores) for o in group if o.scores and term.name in o.scores]
            if given:
                own = [scores[term.name] for _, scores in given]
                joined = term.submit_group([caption for caption, _ in given], own)
                for (_, scores), score in zip(given, joined, strict=True):
                    scores[term.name] = score

    def work(self) -> None:
        """Lets models in this process go on, as long as they have enough to fill a batch."""
        self.rubric.work()

    def finish(self) -> None:
        """Waits for the scores, and fills the rollouts."""
        for opened in self._open:
            if opened.scores is None:
                self._submit(opened)
        for group in self._groups.values():
            self._submit_group(group)
        self.rubric.finish()
        for opened in self._open:
            if opened.is_local and opened.scores is not None:
                scores = opened.scores
                outcomes = [(t, t.outcome(scores[t.name])) for t in self.rubric.terms]
                applying = [(t, score) for t, score in outcomes if score.applies]
                fill(opened.rollout, applying, gate=self.rubric.gate)
        if self.rubric.held_out is not None:
            self.rubric.held_out.compare(self._open, self.step)
        self._open, self._groups = [], {}


def fill(
    rollout: Rollout, scores: Sequence[tuple[WeightedTerm, Score]], *, gate: bool = False
) -> None:
    """Puts a caption's scores and their sum into its rollout; `failure` where one is missing.

    `gate`: shaping terms are multiplied by the weighted mean of the others, kept within 0..1, so
    that a caption that tells nothing earns nothing by being short; the part "TERM/ungated" is what
    they were.
    """
    rollout.reading = _readings({t.name: score.reading for t, score in scores if score.reading})
    failures = [score.failure for _, score in scores if score.failure]
    if failures or not scores:
        rollout.failure = failures[0] if failures else "no reward term applies to the sample"
        return
    told = [(t.weight, s.value) for t, s in scores if not t.shapes and s.value is not None]
    rollout.utility = sum(weight * value for weight, value in told) if told else None
    factor = _within_one(rollout.utility, sum(weight for weight, _ in told)) if gate else 1.0
    rollout.rewards, rollout.parts, total = {}, {}, 0.0
    for term, score in scores:
        assert score.value is not None
        rollout.parts |= {f"{term.name}/{part}": value for part, value in score.parts.items()}
        value = score.value
        if term.shapes and gate:
            rollout.parts[f"{term.name}/ungated"] = value
            value *= factor
        rollout.rewards[term.name] = value
        total += term.weight * value  # in the config's order, to the last bit
    rollout.total = total


def _within_one(utility: float | None, weights: float) -> float:
    """The mean reward of the terms that do not shape, within 0..1; 1 where there is none."""
    return 1.0 if utility is None else min(1.0, max(0.0, utility / weights))


def _readings(by_term: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All terms' readings, one after the other; where several have one, each entry says whose."""
    if len(by_term) <= 1:
        return next(iter(by_term.values()), [])
    return [{"term": name} | entry for name, entries in by_term.items() for entry in entries]


def log_failures(groups: Sequence[Group], step: int) -> None:
    """One line per reason: a reader that is down fails a whole step's captions in the same way."""
    failures = (r.failure for g in groups for r in g.rollouts if r.failure)
    for reason, count in Counter(failures).items():
        log.warning("step %d: %d caption(s) without a reward: %s", step, count, reason)
