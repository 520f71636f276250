"""What the reader gets right without any caption: what a reward may owe to questions alone."""

from __future__ import annotations

import logging
from collections import Counter

from caprl_native.observe.metrics import Mean, Metric
from caprl_native.rewards.rubric import Rubric, Scoring
from caprl_native.types import Group, Rollout, Sample

log = logging.getLogger(__name__)

NO_ROLLOUT = -1  # the rollout's number, in the seeds of draws


class Blind:
    """Empty captions of a step's samples, for the terms that ask the reader; each question once."""

    def __init__(self, rubric: Rubric, step: int) -> None:
        reading = [t for t in rubric.terms if t.term.options.reads]
        alone = Rubric(reading, rubric.context, overlap=False).for_evaluation(0)
        self._scoring = Scoring(alone, step)
        self.groups: list[Group] = []  # this rank's samples, each with one empty caption

    def add(self, sample: Sample, *, is_local: bool) -> None:
        """Takes a sample; of all ranks that share an engine the same, in the same order."""
        rollout = Rollout([], [], "stop", "")
        self._scoring.add(sample, NO_ROLLOUT, rollout, is_local=is_local)
        if is_local:
            self.groups.append(Group(sample, (), [rollout]))

    def finish(self) -> None:
        """Asks, and waits for the answers; warns of those that are missing."""
        self._scoring.finish()
        failures = Counter(r.failure for r in self._rollouts() if r.failure)
        for reason, count in failures.items():
            said = "step %d: %d sample(s) without an answer where no caption is shown: %s"
            log.warning(said, self._scoring.step, count, reason)

    def metrics(self) -> dict[str, Metric]:
        """`reward/TERM/blind`: the mean reward of no caption, over samples that have one."""
        return {
            f"reward/{name}/blind": Mean.of(
                r.rewards[name] for r in self._rollouts() if name in r.rewards
            )
            for name in self._scoring.rubric.names
        }

    def _rollouts(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group.rollouts]
