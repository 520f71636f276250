"""Utility of a caption: how often a reader that sees only it answers questions rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caprl_native.config import AccuracyConfig
from caprl_native.rewards.base import Caption, Score
from caprl_native.rewards.prompts import CANNOT_ANSWER, reader_messages
from caprl_native.rewards.questions import ShownQuestion, draw, read_answer
from caprl_native.rewards.reader import Answer, Ask, Reader
from caprl_native.seeds import rng_of, seed_of


@dataclass
class AccuracyReward:
    """Share of right answers over the drawn questions (CapRL's visual utility reward)."""

    reader: Reader
    config: AccuracyConfig

    def __call__(self, captions: Sequence[Caption]) -> list[Score]:
        shown = [self._draw(caption) for caption in captions]
        asks = [
            Ask(
                reader_messages(caption.sample.modality, caption.text, q.question, list(q.choices)),
                seed_of("answer", *caption.key, i),
            )
            for caption, questions in zip(captions, shown, strict=True)
            for i, q in enumerate(questions)
        ]
        answers = iter(self.reader.answer(asks))
        return [_score([(q, next(answers)) for q in questions]) for questions in shown]

    def _draw(self, caption: Caption) -> list[ShownQuestion]:
        """The questions of one caption, the same whenever it is scored again."""
        rng = rng_of("draw", *caption.key)
        questions = caption.sample.questions
        chosen = [rng.choice(questions) for _ in range(self.config.draws)] or questions
        return [
            draw(q, rng, cannot_answer=self.config.cannot_answer, text=CANNOT_ANSWER)
            for q in chosen
        ]


def _score(answered: list[tuple[ShownQuestion, Answer]]) -> Score:
    """The mean over a caption's questions; missing if any of them got no answer at all."""
    reading, right = [], 0
    for question, answer in answered:
        if answer.text is None:
            return Score(None, failure=answer.failure)
        letter = read_answer(answer.text, question)
        right += letter == question.answer
        reading.append(
            {
                "question": question.question,
                "choices": list(question.choices),
                "right": question.answer,
                "answer": answer.text,
                "letter": letter,
            }
        )
    return Score(right / len(answered), reading=reading)
