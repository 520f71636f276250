"""ChartQA's relaxed accuracy: numbers within five percent of the answer, other text exact."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

TOLERANCE = 0.05


def relaxed_match(prediction: str, answer: str) -> bool:
    """Whether `prediction` is within 5% of a numeric `answer`, else equal to it but for case.

    Follows Pix2Struct's rule as VLMEvalKit and lmms-eval have it (ChartQA, section 5.1 of
    arXiv 2203.10244). What looks odd is theirs and kept: an answer of zero falls back to string
    equality, years get the same band, "42" never equals "42%" (a percentage is a hundredth),
    nothing is stripped, and a number is whatever Python's `float` reads, "1_000" and "nan" too.
    """
    given, wanted = _number(prediction), _number(answer)
    if given is None or not wanted:
        return prediction.lower() == answer.lower()
    return abs(given - wanted) / abs(wanted) <= TOLERANCE


def relaxed_accuracy(prediction: str, answers: str | Sequence[Any]) -> bool:
    """Whether the stripped `prediction` matches one of `answers`, as VLMEvalKit scores ChartQA.

    A string that reads as a Python list of literals stands for its elements; the reference
    evaluates it as code, here it is only parsed. Raises ValueError without any answer.
    """
    return any(relaxed_match(prediction.strip(), answer) for answer in accepted(answers))


def accepted(answers: str | Sequence[Any]) -> list[str]:
    """The answers as strings: the elements of a list or of a list literal, else the one text.

    Raises ValueError when the list is empty.
    """
    listed = literal_list(answers) if isinstance(answers, str) else list(answers)
    if listed is None:
        return [str(answers)]
    if not listed:
        raise ValueError("no answer to compare with: the list of answers is empty")
    return [str(answer) for answer in listed]


def literal_list(text: str) -> list[Any] | None:
    """The list that `text` spells out in Python's literals; None if it spells no list."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _number(text: str) -> float | None:
    """`text` as a float, a trailing percent sign (or several) dividing by 100; None if it fails."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
