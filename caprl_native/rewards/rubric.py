"""The whole reward: `R = accuracy + alpha * timestamps + beta * length`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from caprl_native.config.schema import AccuracyConfig, RewardConfig
from caprl_native.rewards.accuracy import AccuracyReward, Reading
from caprl_native.rewards.base import Caption, Score
from caprl_native.rewards.length import length_reward
from caprl_native.rewards.reader import Reader
from caprl_native.rewards.timestamps import timestamp_reward
from caprl_native.text.thoughts import without_thoughts
from caprl_native.types import Group, Rollout, Sample

log = logging.getLogger(__name__)


@dataclass
class RewardModel:
    """Scores rollouts in place.

    Draws depend on the run's seed, the step, the sample and the rollout's number alone.
    """

    config: RewardConfig
    reader: Reader
    seed: int

    def score(
        self, groups: Sequence[Group], step: int, *, accuracy: AccuracyConfig | None = None
    ) -> None:
        """Fills `rewards`, `total` and `reading` of every rollout; `failure` where it has none."""
        scoring = self.begin(step, accuracy=accuracy)
        for group in groups:
            for i, rollout in enumerate(group.rollouts):
                scoring.add(group.sample, i, rollout)
        scoring.finish()
        log_failures(groups, step)

    def begin(self, step: int, *, accuracy: AccuracyConfig | None = None) -> Scoring:
        """The same for captions that come one by one."""
        self.reader.reset()
        return Scoring(self, AccuracyReward(self.reader, accuracy or self.config.accuracy), step)

    def total(self, rollout: Rollout, caption: Caption, accuracy: Score) -> None:
        """Puts a caption's score and the terms that need no reader into its rollout."""
        config = self.config
        rollout.reading = accuracy.reading
        rollout.rewards = {"accuracy": accuracy.value}
        rollout.total = accuracy.value
        if config.alpha and caption.sample.modality == "video":
            rule = config.timestamps
            score = timestamp_reward(
                caption.text,
                rule=rule.rule,
                min_brackets=rule.min_brackets,
                max_minute=rule.max_minute,
            )
            rollout.rewards["timestamps"] = score.value
            rollout.total += config.alpha * score.value
        if config.beta:
            value = length_reward(caption.tokens, config.length.l1, config.length.l2)
            rollout.rewards["length"] = value
            rollout.total += config.beta * value


@dataclass
class Scoring:
    """The captions of a step on their way through the reader."""

    rewards: RewardModel
    accuracy: AccuracyReward
    step: int
    _open: list[tuple[Rollout, Caption, Reading | None]] = field(default_factory=list)

    def add(self, sample: Sample, index: int, rollout: Rollout) -> None:
        """Takes rollout `index` of a sample; with `reward.overlap` its questions are asked now.

        The reader gets what the policy said outside its thoughts; its length counts them.
        """
        key = (self.rewards.seed, self.step, sample.id, index)
        caption = Caption(sample, without_thoughts(rollout.text), len(rollout.token_ids), key)
        overlap = self.rewards.config.overlap
        self._open.append((rollout, caption, self.accuracy.ask(caption) if overlap else None))

    def work(self) -> None:
        """Lets a reader in this process go on, as long as it has enough to do at one time."""
        self.rewards.reader.work()

    def finish(self) -> None:
        """Waits for the reader, and fills the rollouts."""
        asked = [(r, c, reading or self.accuracy.ask(c)) for r, c, reading in self._open]
        self.rewards.reader.finish()
        for rollout, caption, reading in asked:
            score = reading.score()
            if score.value is None:
                rollout.failure = score.failure
            else:
                self.rewards.total(rollout, caption, score)
        self._open = []


def log_failures(groups: Sequence[Group], step: int) -> None:
    """One line per reason: a reader that is down fails a whole step's captions in the same way."""
    failures = (r.failure for g in groups for r in g.rollouts if r.failure)
    for reason, count in Counter(failures).items():
        log.warning("step %d: %d caption(s) without a reward: %s", step, count, reason)
