"""The judgements of a group on their way: first of each rollout, then the ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.rewards.base import Caption, Score, missing
from caprl_native.rewards.judges.base import Case, Verdict
from caprl_native.rewards.judges.reply import Judgement, read_judgement
from caprl_native.rewards.memory.preceding import preceding_text
from caprl_native.rewards.memory.prompts import (
    CORRECTNESS,
    LABEL,
    correctness_messages,
    label_messages,
    usefulness_messages,
)
from caprl_native.rewards.memory.replies import read_ranking
from caprl_native.rewards.memory.reward import Judged, Parameters, Reward, group_rewards
from caprl_native.seeds import seed_of
from caprl_native.text.described import WrongForm, read_description
from caprl_native.text.faces import has_loose_faces
from caprl_native.types import Sample

RIGHT, WRONG_FORM, NOT_JUDGED = 0, 1, 2  # states of a rollout in the log

Asked = dict[str, Future[Verdict[Judgement]]]


@dataclass
class Opened:
    """A rollout whose judgements were asked for; `wrong`: what is wrong with its form."""

    caption: Caption
    judged: Judged
    wrong: str = ""
    asked: Asked = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, caption: Caption) -> Opened:
        """What there is to know before anybody is asked."""
        tokens, thought = caption.answer_tokens, caption.thinking_tokens
        try:
            text = read_description(caption.raw)
        except WrongForm as error:
            return cls(caption, Judged(None, False, tokens, thought), str(error))
        return cls(caption, Judged(text, has_loose_faces(text), tokens, thought))

    def take(self) -> None:
        """The judgements, once all of them are there. Raises LookupError with why one is not."""
        values: dict[str, float] = {}
        for key, future in self.asked.items():
            verdict = future.result()
            if verdict.judgement is None:
                raise LookupError(f"{key} {verdict.failure}")
            values[key] = verdict.judgement.values[key]
            self.reasons[key] = verdict.judgement.reason
        self.judged = replace(
            self.judged, correctness=values.get(CORRECTNESS), label=values.get(LABEL)
        )

    def reading(self, **more: Any) -> list[dict[str, Any]]:
        """What the rollout log shows."""
        state = RIGHT if self.judged.description is not None else WRONG_FORM
        known = {"memory": self.judged.description, "state": state}
        known |= {"wrong": self.wrong} if self.wrong else {}
        for key, reason in self.reasons.items():
            known[key] = getattr(self.judged, key)
            known[f"{key}_reason"] = reason
        return [known | more]


@dataclass
class Group:
    """All rollouts of a segment, in their order, and the scores that they will have."""

    opened: list[Opened]
    scores: list[Future[Score]]

    @classmethod
    def of(cls, opened: list[Opened]) -> Group:
        return cls(opened, [Future() for _ in opened])

    @property
    def asked(self) -> list[Future[Verdict[Judgement]]]:
        """All judgements of single rollouts."""
        return [future for one in self.opened for future in one.asked.values()]

    def correct(self, p: Parameters) -> list[int]:
        """The places of those that are true, new and of the right kind."""
        return [i for i, one in enumerate(self.opened) if one.judged.is_correct(p)]

    def settle(self, scores: Mapping[int, float], p: Parameters) -> None:
        """Everybody has a reward; `scores`: the ranks of the correct ones."""
        rewards = group_rewards([one.judged for one in self.opened], scores, p)
        for i, (one, reward) in enumerate(zip(self.opened, rewards, strict=True)):
            self.scores[i].set_result(_score(one, reward, scores.get(i), p))

    def give_up(self, reason: str) -> None:
        """Nobody has: a judgement is missing, and none is made up."""
        for one, score in zip(self.opened, self.scores, strict=True):
            if not score.done():
                state = {} if one.wrong else {"state": NOT_JUDGED}
                score.set_result(replace(missing(reason), reading=one.reading(**state)))


def _score(one: Opened, reward: Reward, useful: float | None, p: Parameters) -> Score:
    """Parts: what is asked of all rollouts; `label` and `useful` of those that were judged so."""
    judged = one.judged
    correct = judged.is_correct(p)
    parts = {
        "correct": float(correct),
        "valid": float(judged.is_valid(p)),
        "format_error": float(judged.description is None),
        "count": 1.0 if correct else -1.0,
        "think_penalty": reward.think,
        "think_tokens": float(judged.think_tokens),
    }
    if judged.description is not None:
        parts["tokens"] = float(judged.tokens)
    if judged.label is not None:
        parts["label"] = float(judged.label > 0.5)
    more = {}
    if useful is not None:
        parts["useful"] = more["useful"] = useful
    return Score(reward.total, reading=one.reading(**more), parts=parts)


# --- what is asked ----------------------------------------------------------------------------


def correctness_case(
    caption: Caption, text: str, attempts: int, limits: MediaConfig
) -> Case[Judgement]:
    """Is it true? The judge sees the clip: the videos, or the images where there are none."""
    sample = caption.sample
    clip = tuple(m for m in sample.media if m.kind == "video") or sample.media
    messages = correctness_messages(clip, preceding_text(sample), text)
    return Case(
        replace(sample, media=clip, messages=messages),
        partial(read_judgement, keys=[CORRECTNESS]),
        partial(_clip_of, caption, limits),
        _seeds(CORRECTNESS, caption.key, attempts),
    )


def _clip_of(caption: Caption, limits: MediaConfig) -> list[Any]:
    from caprl_native.data.media import DecodedVideo
    from caprl_native.rewards.judges.media import seen_by_captioner  # numpy, Pillow

    seen = seen_by_captioner(caption, limits)
    return [medium for medium in seen if isinstance(medium, DecodedVideo)] or seen


def label_case(caption: Caption, text: str, attempts: int) -> Case[Judgement]:
    """Is it new, and of the right kind?"""
    sample = _text_only(caption.sample, label_messages(preceding_text(caption.sample), text))
    read = partial(read_judgement, keys=[LABEL])
    return Case(sample, read, list, _seeds(LABEL, caption.key, attempts))


def usefulness_case(
    opened: Sequence[Opened], order: Sequence[int], attempts: int
) -> Case[list[int]]:
    """Which is the most useful? Entry i of the ranking is the rollout at place order[i]."""
    first = opened[0].caption
    texts = [opened[i].judged.description or "" for i in order]
    messages = usefulness_messages(preceding_text(first.sample), texts)
    read = partial(read_ranking, count=len(order))
    seeds = _seeds("usefulness", first.key[:-1], attempts)
    return Case(_text_only(first.sample, messages), read, list, seeds)


def _text_only(sample: Sample, messages: tuple[dict[str, Any], ...]) -> Sample:
    return replace(sample, media=(), messages=messages)


def _seeds(what: str, key: Sequence[int | str], attempts: int) -> tuple[int, ...]:
    return tuple(seed_of("memory", what, *key, i) for i in range(attempts))
