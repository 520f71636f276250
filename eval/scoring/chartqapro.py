"""ChartQAPro's official score (vis-nlp/ChartQAPro, evaluate_predictions.py)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

from eval.scoring.anls import anls
from eval.scoring.relaxed import TOLERANCE, literal_list

# What the official script puts quotes around in a gold list; it mangles elements with a space, a
# percent sign or an apostrophe.
_ELEMENT = re.compile(r"(?<!['\w])(\w[^,]*?)(?!['\w])")


def chartqapro_score(
    prediction: str, answers: Sequence[str], years: Sequence[str], question_type: str
) -> float:
    """Score of one item in 0..1, against the last of `answers`.

    `years` holds "YES" where an element is a year and must match as text; one flag serves all
    elements of a list answer, and a Conversational item takes the last flag. Other elements match
    within 5% if both sides are numbers (percent signs dropped), else score their ANLS. Lists
    compare by position, and a missing or surplus element scores 0.

    The script's faults are kept: Fact Checking and Multi Choice are meant to match exactly but do
    not, a prediction counts as a list only with its elements quoted or numeric, and full stops
    are stripped before line ends. Raises ValueError where the script fails: no answer, no year
    flag, a gold list that Python cannot read.
    """
    if not answers or not years:
        raise ValueError("ChartQAPro needs at least one answer and one year flag")
    flags = years[-1:] if question_type == "Conversational" else years
    golds = _gold_elements(_trimmed(answers[-1]))
    text = _trimmed(prediction)
    given = _elements(text) or [text]
    if len(flags) < len(golds):
        flags = list(flags) * len(golds)
    scores = [_element_score(*pair) for pair in zip(golds, given, flags, strict=False)]
    return sum(scores) / max(len(golds), len(given))


def chartqapro_means(scored: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean score per question type in order of appearance, then "Overall" over all items.

    `scored` holds (question type, score) pairs. Raises ValueError when there are none.
    """
    by_type: dict[str, list[float]] = {}
    every: list[float] = []
    for question_type, score in scored:
        by_type.setdefault(question_type, []).append(score)
        every.append(score)
    if not every:
        raise ValueError("no scored item to average")
    return {
        name: sum(scores) / len(scores) for name, scores in (by_type | {"Overall": every}).items()
    }


def _element_score(gold: str, given: str, year: str) -> float:
    if year.upper() == "YES":
        return float(gold.strip().lower() == given.strip().lower())
    wanted, text = (side.strip().strip("%").strip() for side in (gold, given))
    target, value = (_number(side.strip().strip("%").strip()) for side in (wanted, text))
    if target is None or value is None:
        return anls(text, [wanted])
    if target == 0.0:
        return float(value == 0.0)
    return float(abs(value - target) / abs(target) <= TOLERANCE)


def _gold_elements(gold: str) -> list[str]:
    """Elements of a gold list, quoted first where they are bare words; else the gold itself."""
    return _elements(_requoted(gold)) or [gold]


def _requoted(gold: str) -> str:
    """A gold in square brackets as a Python list of strings, if quoting makes it one."""
    bracketed = re.fullmatch(r"\[(.*)\]", gold.strip())
    if not bracketed:
        return gold
    quoted = _ELEMENT.sub(r"'\1'", bracketed.group(1))
    try:
        return str(ast.literal_eval(f"[{quoted}]"))
    except (SyntaxError, ValueError):
        return gold
    except (TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"Python cannot read the gold list {gold}") from error


def _elements(text: str) -> list[str] | None:
    """Elements of a list literal as text, outer quotes and spaces dropped; None for other text."""
    listed = literal_list(text)
    return None if listed is None else [str(element).strip(" '") for element in listed]


def _trimmed(text: str) -> str:
    return text.strip(".").strip("\n")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
