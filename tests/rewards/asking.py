"""Captions, questions and readers for the tests of rewards."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from caprl_native.rewards.base import Caption, TermContext, TermOptions
from caprl_native.rewards.prompts import reader_messages
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.rewards.rubric import Rubric, log_failures
from caprl_native.types import Group, MediaRef, Question, Rollout, Sample

QUESTIONS = tuple(
    Question(f"What is the {name}?", values, i % len(values))
    for i, (name, values) in enumerate(
        {
            "colour": ("red", "green", "blue"),
            "shape": ("circle", "square"),
            "size": ("tiny", "small", "big", "huge"),
            "place": ("left", "right", "top", "bottom"),
        }.items()
    )
)


def sample(name: str = "s0", kind: str = "image") -> Sample:
    media = (MediaRef(kind, f"{name}.{kind}"),)
    seconds = 600.0 if kind == "video" else None
    return Sample(name, media, (), QUESTIONS, source=f"data:{name}", seconds=seconds)


def caption(text: str = "a red circle", *, key: tuple = (0, 1, "s0", 0), kind: str = "image"):
    return Caption(sample(str(key[2]), kind), text, len(text.split()), key)


def ask(text: str, seed: int = 0, choices: tuple[str, ...] = ()) -> Ask:
    """A question on the caption `text`; with choices, for their probabilities."""
    shown = list(choices or ("red", "green"))
    return Ask(reader_messages("image", text, "What is the colour?", shown), seed, choices)


def group(texts: list[str], *, name: str = "s0", kind: str = "image") -> Group:
    rollouts = [Rollout(list(range(len(t.split()))), [], "stop", t) for t in texts]
    return Group(sample(name, kind), None, rollouts)


def rubric(reader: ListeningReader | None = None, **terms: TermOptions) -> Rubric:
    """The sum of these terms, by name."""
    return Rubric.of(terms, TermContext(lambda: reader or ListeningReader()))


def score(rubric: Rubric, groups: Sequence[Group], step: int = 1) -> None:
    """What a step does with its captions."""
    scoring = rubric.begin(step)
    for g in groups:
        for i, rollout in enumerate(g.rollouts):
            scoring.add(g.sample, i, rollout)
    scoring.finish()
    log_failures(groups, step)


class ListeningReader:
    """Answers by a rule, and keeps what it was asked: (message texts, seed)."""

    collective = True

    def __init__(self, rule=lambda ask: " A") -> None:
        self.rule, self.heard = rule, []

    def ask(self, asks):
        self.heard += [(a.messages[-1]["content"], a.seed) for a in asks]
        return [self._answer(a) for a in asks]

    def _answer(self, ask) -> Future[Answer]:
        text, answer = self.rule(ask), Future()
        answer.set_result(Answer(text) if text is not None else Answer(None, "no reply"))
        return answer

    def work(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def reset(self) -> None:
        pass
