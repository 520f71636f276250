"""A vision-language model judges captions by what it sees (CapRL's mode "vl_judge")."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from caprl_native.rewards.base import (
    NOT_APPLICABLE,
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermContext,
    finished,
    gathered,
    missing,
)
from caprl_native.rewards.judges import build_judge
from caprl_native.rewards.judges.base import Case, Verdict
from caprl_native.rewards.judges.options import JudgeOptions
from caprl_native.rewards.judges.prompts import judge_messages
from caprl_native.rewards.judges.reply import KEYS, Judgement, fused, read_judgement
from caprl_native.seeds import seed_of


@TERMS.register(JudgeOptions)
class JudgeTerm(RewardTerm[JudgeOptions]):
    """The weighted mean of what the judge says of each criterion, 0 to 1."""

    def __init__(self, options: JudgeOptions, context: TermContext) -> None:
        super().__init__(options, context)
        self.judge = build_judge(options, context.tp_size)
        self.collective = self.judge.collective
        self._weights = {
            "video": dict(zip(KEYS["video"], options.video_weights, strict=True)),
            "image": dict(zip(KEYS["image"], options.image_weights, strict=True)),
        }
        self._rubrics = {seen: options.rubric_of(seen) for seen in KEYS}

    def submit(self, caption: Caption) -> Future[Score]:
        """Gives the judge one caption with its media; a text has none."""
        from caprl_native.rewards.judges.media import seen_by_captioner  # numpy, Pillow

        seen = caption.sample.modality
        if seen == "text":
            return finished(NOT_APPLICABLE)
        asked = judge_messages(seen, caption.sample.media, caption.text, self._rubrics[seen])
        sample = replace(caption.sample, messages=asked)
        decoded = partial(seen_by_captioner, caption, self.options.limits)
        attempts = self.options.attempts if self.options.temperature else 1
        verdicts = [
            self.judge.ask(
                Case(
                    sample,
                    partial(read_judgement, keys=KEYS[seen]),
                    decoded,
                    tuple(seed_of("judge", *caption.key, i, k) for k in range(attempts)),
                )
            )
            for i in range(self.options.samples)
        ]
        return gathered(verdicts, partial(_score, self._weights[seen]))

    def begin(self, step: int) -> None:
        self.judge.reset()

    def work(self) -> None:
        self.judge.work()

    def finish(self) -> None:
        self.judge.finish()

    def sleep(self) -> None:
        self.judge.sleep()

    def wake(self) -> None:
        self.judge.wake()

    def close(self) -> None:
        self.judge.close()


def _score(weights: dict[str, float], verdicts: list[Verdict[Judgement]]) -> Score:
    """The mean over the readable judgements; missing where less than half of them are.

    Parts: each criterion; `unreadable`, the share of replies that could not be read; `extreme`,
    1 where the score is 0 or 1.
    """
    judgements = [v.judgement for v in verdicts if v.judgement is not None]
    if not judgements or 2 * len(judgements) < len(verdicts):
        failures = (v.failure for v in verdicts if v.failure)
        return missing(next(failures, "judge: it gave no judgement"))
    parts = {key: sum(j.values[key] for j in judgements) / len(judgements) for key in weights}
    value = fused(parts, weights)
    unreadable = sum(v.unreadable for v in verdicts)
    parts["unreadable"] = unreadable / (unreadable + len(judgements))
    parts["extreme"] = float(value in (0.0, 1.0))
    reading = [{"judgement": j.values, "reason": j.reason} for j in judgements]
    return Score(value, reading=reading, parts=parts)
