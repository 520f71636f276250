"""A reader that the reward never hears of, against captions that only please the training readers.

Every few steps it answers the questions of that step's captions, the same ones in the same order.
`reward/held_out/accuracy` is its share of right answers, `reward/held_out/gap` by how much the
training readers' is above it. A gap that grows says that the policy learns what convinces its
reader, and not what the picture shows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from caprl_native.rewards.base import Score, TermContext, finished, missing, reason_of
from caprl_native.rewards.opened import Open
from caprl_native.rewards.terms.accuracy import Accuracy, AccuracyOptions

if TYPE_CHECKING:
    from caprl_native.config.reward import RewardConfig

log = logging.getLogger(__name__)


class HeldOut:
    """Compares every `every` steps. `name`: of the accuracy term whose questions it answers."""

    def __init__(self, name: str, options: AccuracyOptions, context: TermContext, every: int):
        self.name, self.every, self.readers = name, every, [context.reader]
        self._term = Accuracy(options, context)

    def compare(self, opened: Sequence[Open], step: int) -> None:
        """Adds to the parts of this rank's rollouts, where the step is due; takes no reward away.

        Where the reader is in process the ranks that share it do this together.
        """
        if step < 1 or step % self.every:
            return
        asked: list[tuple[Open, Future[Score]]] = [
            (one, self._submitted(one)) for one in opened if one.is_local or self._term.collective
        ]
        for reader in self.readers:
            reader.finish()
        failures = [self._add(one, score) for one, score in asked if one.is_local]
        if reasons := [failure for failure in failures if failure]:
            log.warning(
                "step %d: the held-out reader did not answer on %d caption(s): %s",
                step,
                len(reasons),
                reasons[0],
            )

    def _submitted(self, one: Open) -> Future[Score]:
        """What cannot be asked is a caption without a comparison, as one that is not answered is;
        where ranks ask together it ends the run, as a reward term does."""
        try:
            return self._term.submit(one.caption)
        except Exception as error:
            if self._term.collective:
                raise
            return finished(missing(reason_of(error)))

    def _add(self, one: Open, future: Future[Score]) -> str | None:
        """Why there is nothing to compare; None where there is."""
        try:
            score = future.result()
        except Exception as error:
            return reason_of(error)
        ours = one.rollout.parts.get(f"{self.name}/right")
        if not score.failure and ours is not None:
            theirs = score.parts["right"]
            one.rollout.parts |= {"held_out/accuracy": theirs, "held_out/gap": ours - theirs}
        return score.failure


def build_held_out(config: RewardConfig, seed: int, tp_size: int) -> HeldOut | None:
    """What the config asks for; the first accuracy term that counts is the one to compare with."""
    from caprl_native.rewards.readers import build_reader

    held_out = config.held_out_reader
    if not held_out.is_given:
        return None
    terms = (
        (name, options)
        for name, options in config.terms.items()
        if isinstance(options, AccuracyOptions) and options.weight
    )
    name, options = next(terms)
    context = TermContext(lambda: build_reader(held_out, tp_size), seed, tp_size)
    return HeldOut(name, options, context, held_out.every)
