"""Columns with a number for each question of a record: which are asked, and how often.

`blind_accuracy`, `other_accuracy`, `accuracy` and `difficulty` are what `tools/leak_check.py` adds
to a copy of the data; any other column may serve as weights, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from caprl_native.data.fields import FieldError, decoded, kind_of
from caprl_native.messages import cut
from caprl_native.types import Sample

BLIND = "blind_accuracy"  # the reader's, of an empty caption
OTHER = "other_accuracy"  # of another sample's caption
OWN = "accuracy"  # of the sample's own captions: p
DIFFICULTY = "difficulty"  # p (1 - p)
MOST_WEIGHT = 1_000_000  # of a question
LEAK_CHECK = "tools/leak_check.py writes it into a copy of the data"


@dataclass(frozen=True)
class QuestionColumns:
    """What becomes of questions by their columns; by default nothing.

    `max_blind_accuracy`: those above it are left out. `weights`: the column by which they are
    drawn; empty: all alike.
    """

    max_blind_accuracy: float = 1.0
    weights: str = ""

    def __bool__(self) -> bool:
        return self.max_blind_accuracy < 1 or bool(self.weights)

    def apply(self, sample: Sample, raw: dict[str, Any], without: Sequence[int] = ()) -> Sample:
        """The sample with the questions that are left, weighted; maybe none.

        `without`: the places of wrong questions, which only the column has an entry for.

        Raises:
            FieldError: the record lacks the column, or it does not fit its questions.
        """
        questions = sample.questions
        if self.weights:
            weights = _column(raw, self.weights, len(questions), without)
            pairs = zip(questions, weights, strict=True)
            questions = tuple(replace(q, weight=weight) for q, weight in pairs)
        if self.max_blind_accuracy < 1:
            blind = _column(raw, BLIND, len(questions), without)
            pairs = zip(questions, blind, strict=True)
            questions = tuple(q for q, share in pairs if share <= self.max_blind_accuracy)
        return replace(sample, questions=questions)


def _column(raw: dict[str, Any], name: str, count: int, without: Sequence[int]) -> list[float]:
    """A number for each of `count` questions; those `without` one are not looked at.

    Raises `FieldError`.
    """
    count += len(without)
    if raw.get(name) is None:
        raise FieldError(name, "the record has no such column", LEAK_CHECK)
    values = decoded(raw[name], name)
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)}" if isinstance(values, list) else kind_of(values)
        raise FieldError(
            name, f"expected a list of {count} numbers, one per question, got {found}", LEAK_CHECK
        )
    asked_of = [i for i in range(count) if i not in without]
    for i in asked_of:
        value = values[i]
        if isinstance(value, bool) or not isinstance(value, int | float):
            missing = "nothing: the reader gave no answer; run the leak check again"
            problem = missing if value is None else kind_of(value)
            raise FieldError(f"{name}[{i}]", f"expected a number of 0 or more, got {problem}")
        if not 0 <= value <= MOST_WEIGHT:
            asked = f"expected a number from 0 to {MOST_WEIGHT:,}"
            raise FieldError(f"{name}[{i}]", f"{asked}, got {cut(str(value), 40)}")
    return [float(values[i]) for i in asked_of]
