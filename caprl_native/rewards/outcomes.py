"""What becomes of a question: answered rightly, answered wrongly, or left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caprl_native.rewards.questions import ShownQuestion


@dataclass(frozen=True)
class Outcome:
    """Shares, or probabilities, of a question's answers.

    `right`; `misled`: another choice; `abstained`: "it cannot be answered", where that is not the
    right choice. What they lack to 1 is no answer.
    """

    right: float
    misled: float
    abstained: float

    def value(self, misled_weight: float) -> float:
        """What they are worth: right - misled_weight * misled."""
        return self.right - misled_weight * self.misled


def outcome_of_letter(question: ShownQuestion, letter: str | None) -> Outcome:
    """Of one answer; None: it chose nothing."""
    chosen = [float(letter == one) for one in question.letters]
    return outcome_of_probabilities(question, chosen)


def outcome_of_probabilities(question: ShownQuestion, chosen: Sequence[float]) -> Outcome:
    """Of the probability of each choice, in the order shown."""
    right = misled = abstained = 0.0
    for letter, probability in zip(question.letters, chosen, strict=True):
        if letter == question.answer:
            right += probability
        elif letter == question.cannot:
            abstained += probability
        else:
            misled += probability
    return Outcome(right, misled, abstained)


def mean(outcomes: Sequence[Outcome], weights: Sequence[float] = ()) -> Outcome:
    """Each counts by its weight; without any, once."""
    weights = weights or [1.0] * len(outcomes)
    pairs, total = list(zip(outcomes, weights, strict=True)), sum(weights)
    return Outcome(
        sum(w * o.right for o, w in pairs) / total,
        sum(w * o.misled for o, w in pairs) / total,
        sum(w * o.abstained for o, w in pairs) / total,
    )
