"""ChartQA's relaxed accuracy: numbers within five percent of the answer, other text exact."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

TOLERANCE = 0.05

_UNREADABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
_SIGNS: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
MAX_EXPONENT, MAX_BITS = 1000, 100_000  # of what an answer works out


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

    A string that reads as a Python list of literals, or of sums and the like of numbers, stands for
    its elements ("[10-20]" is -10); the reference runs it as code, here it is parsed and added up.
    Raises ValueError without any answer.
    """
    return any(relaxed_match(prediction.strip(), answer) for answer in accepted(answers))


def accepted(answers: str | Sequence[Any]) -> list[str]:
    """The answers as strings: the elements of a list or of a list literal, else the one text.

    Raises ValueError when the list is empty.
    """
    listed = computed_list(answers) if isinstance(answers, str) else list(answers)
    if listed is None:
        return [str(answers)]
    if not listed:
        raise ValueError("no answer to compare with: the list of answers is empty")
    return [str(answer) for answer in listed]


def computed_list(text: str) -> list[Any] | None:
    """As `literal_list`, arithmetic on numbers worked out; None where a result is too large."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        value = _computed(tree)
    except (*_UNREADABLE, ArithmeticError):
        return None
    return value if isinstance(value, list) else None


def _computed(node: ast.expr) -> Any:
    if isinstance(node, ast.List):
        return [_computed(element) for element in node.elts]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_number_of(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _number_of(node.left), _number_of(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > MAX_EXPONENT:
            raise OverflowError(f"{right} is too large an exponent")
        value = _OPERATIONS[type(node.op)](left, right)
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise OverflowError(f"a number of {value.bit_length()} bits")
        return value
    return ast.literal_eval(node)


def _number_of(node: ast.expr) -> int | float:
    value = _computed(node)
    if not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return value


def literal_list(text: str) -> list[Any] | None:
    """The list that `text` spells out in Python's literals; None if it spells no list."""
    try:
        value = ast.literal_eval(text)
    except _UNREADABLE:
        return None
    return value if isinstance(value, list) else None


def _number(text: str) -> float | None:
    """`text` as a float, a trailing percent sign (or several) dividing by 100; None if it fails."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
