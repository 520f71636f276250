"""ChartQA's relaxed accuracy: numbers within five percent of the answer, other text exact."""

from __future__ import annotations

import ast
import operator
import warnings
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
# Of what an answer works out: integers of more bits cannot be written in digits (Python's limit is
# 4,300 digits), and powers of powers would take for ever.
MAX_EXPONENT, MAX_BITS = 1000, 14_000
MAX_LIST_CHARS = 20_000  # a longer text is no list


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
        value = _computed(_parsed(text.strip()))
    except (*_UNREADABLE, ArithmeticError):
        return None
    return _writable(value)


def _parsed(text: str) -> ast.expr:
    """Raises ValueError for a text that cannot be a list, and what `ast.parse` does."""
    if len(text) > MAX_LIST_CHARS or "[" not in text:
        raise ValueError("no list")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Python thinks of a text as a program
        return ast.parse(text, mode="eval").body


def _writable(value: Any) -> list[Any] | None:
    """A list whose elements can be written as texts; None for anything else."""
    try:
        return value if isinstance(value, list) and str(value) else None
    except ValueError:  # an integer of thousands of digits, given in hexadecimal
        return None


def _computed(node: ast.expr) -> Any:
    if isinstance(node, ast.List):
        return [_computed(element) for element in node.elts]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_number_of(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _number_of(node.left), _number_of(node.right)
        if isinstance(node.op, ast.Pow):
            _check_power(left, right)
        value = _OPERATIONS[type(node.op)](left, right)
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise OverflowError(f"a number of {value.bit_length()} bits")
        return value
    return ast.literal_eval(node)


def _check_power(base: float, exponent: float) -> None:
    """Raises OverflowError for a power that is too large to work out."""
    if abs(exponent) > MAX_EXPONENT:
        raise OverflowError(f"{exponent} is too large an exponent")
    if isinstance(base, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise OverflowError("too large a power")


def _number_of(node: ast.expr) -> int | float:
    value = _computed(node)
    if not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return value


def literal_list(text: str) -> list[Any] | None:
    """The list that `text` spells out in Python's literals; None if it spells no list."""
    try:
        value = ast.literal_eval(_parsed(text.lstrip(" \t")))
    except _UNREADABLE:
        return None
    return _writable(value)


def _number(text: str) -> float | None:
    """`text` as a float, a trailing percent sign (or several) dividing by 100; None if it fails."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
