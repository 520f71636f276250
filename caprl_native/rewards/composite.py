"""The whole reward: `R = accuracy + alpha * timestamps + beta * length`."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from caprl_native.config import AccuracyConfig, RewardConfig
from caprl_native.rewards.accuracy import AccuracyReward
from caprl_native.rewards.base import Caption, Score
from caprl_native.rewards.length import length_reward
from caprl_native.rewards.reader import Reader
from caprl_native.rewards.timestamps import timestamp_reward
from caprl_native.types import Group, Rollout

log = logging.getLogger(__name__)


@dataclass
class RewardModel:
    """Scores groups of rollouts in place."""

    config: RewardConfig
    reader: Reader
    seed: int

    def score(
        self, groups: Sequence[Group], step: int, *, accuracy: AccuracyConfig | None = None
    ) -> None:
        """Fills `rewards`, `total` and `reading` of every rollout, or `failure` where it has none.

        Draws depend on the run's seed, the step, the sample and the rollout's number alone.
        """
        rollouts = [(g, i, r) for g in groups for i, r in enumerate(g.rollouts)]
        captions = [
            Caption(g.sample, r.text, len(r.token_ids), (self.seed, step, g.sample.id, i))
            for g, i, r in rollouts
        ]
        self.reader.forget()
        scores = self._accuracy(captions, accuracy or self.config.accuracy)
        for (_, _, rollout), caption, score in zip(rollouts, captions, scores, strict=True):
            if score.value is None:
                rollout.failure = score.failure
            else:
                self._total(rollout, caption, score)
        _log_failures([r for _, _, r in rollouts], step)

    def _accuracy(self, captions: list[Caption], config: AccuracyConfig) -> list[Score]:
        reward, size = AccuracyReward(self.reader, config), config.batch_captions or len(captions)
        calls = self.reader.calls(math.ceil(len(captions) / size) if captions else 0)
        batches = (captions[i * size : (i + 1) * size] for i in range(calls))
        return [score for batch in batches for score in reward(batch)]

    def _total(self, rollout: Rollout, caption: Caption, accuracy: Score) -> None:
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


def _log_failures(rollouts: Sequence[Rollout], step: int) -> None:
    """One line per reason: a reader that is down fails a whole step's captions in the same way."""
    for reason, count in Counter(r.failure for r in rollouts if r.failure).items():
        log.warning("step %d: %d caption(s) without a reward: %s", step, count, reason)
