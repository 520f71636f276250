"""math-verify without its alarms: parsing LaTeX answers and comparing the results.

math-verify stops a long computation by SIGALRM, which works on the main thread only, takes the
alarm from whoever else set one, and cannot interrupt a large integer power. Its alarms are off
here. What bounds the time instead, on every thread alike: texts are at most MAX_CHARS long, and an
expression whose evaluation could take long (`_affordable`) is compared as text only. The largest
that pass take seconds.
"""

from __future__ import annotations

import logging
import math
import re
from functools import singledispatch
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.functions.combinatorial.factorials import CombinatorialFunction
from sympy.matrices.matrixbase import MatrixBase

MAX_CHARS = 500
MAX_NODES = 500
MAX_DIGITS = 20_000.0
# (x+1)^100 takes a second, (x+1)^1000 more than fifteen.
MAX_TERMS = 500

# It warns, once each for parsing and comparing, that its alarms are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# Unlike powers and factorials, these are evaluated while they are parsed.
_EAGER = re.compile(r"binom|\\gcd|\\lcm|\\det|vmatrix")
_LARGE = re.compile(r"\d{6}|\^|!")


def parse_latex(text: str) -> list[Any]:
    """What math-verify finds first in `$text$`: [expression, text], [text] or nothing.

    A text beyond the bounds gives [text], as one does that is no mathematics.
    """
    if len(text) > MAX_CHARS or (_EAGER.search(text) and _LARGE.search(text)):
        return [text.strip()]
    found = parse(
        f"${text}$", [LatexExtractionConfig()], extraction_mode="first_match", parsing_timeout=None
    )
    return [value for value in found if isinstance(value, str) or _affordable(value)]


def equivalent(first: Any, second: Any) -> bool:
    """Whether math-verify finds any value of `first` equal to any of `second`.

    Either is a list from `parse_latex` or one value. Not symmetric: an assignment `x = 5` is
    unwrapped by different rules on the two sides.
    """
    return verify(first, second, timeout_seconds=None)


def _affordable(expression: Any) -> bool:
    """Whether sympy can evaluate and simplify the expression in seconds.

    Not so: sums, products, integrals and limits (refused whole), numbers of more than MAX_DIGITS
    digits on the way, expansions to more than MAX_TERMS terms, more than MAX_NODES nodes.
    """
    entries = list(expression) if isinstance(expression, MatrixBase) else [expression]
    nodes = 0
    for entry in entries:
        for node in sympy.preorder_traversal(entry):
            nodes += 1
            if nodes > MAX_NODES or isinstance(node, ExprWithLimits | sympy.Limit):
                return False
            if isinstance(node, sympy.Pow) and _terms(node) > MAX_TERMS:
                return False
    return sum(_digits(entry) for entry in entries) <= MAX_DIGITS


def _terms(power: sympy.Pow) -> int:
    """Terms of the expanded power: 1 unless a sum with symbols is raised to a whole number."""
    base, exponent = power.args
    if not (isinstance(base, sympy.Add) and base.free_symbols and exponent.is_Integer):
        return 1
    others = len(base.args) - 1
    return math.comb(min(abs(int(exponent)), MAX_TERMS) + others, others)


@singledispatch
def _digits(expression: Any) -> float:
    """Decimal digits of the numbers that evaluating the expression may build, estimated high."""
    return sum(_digits(part) for part in getattr(expression, "args", ())) or 1.0


@_digits.register
def _(number: sympy.Rational) -> float:
    bits = int(number.p).bit_length() + int(number.q).bit_length()
    return bits * math.log10(2)


@_digits.register
def _(power: sympy.Pow) -> float:
    base, exponent = (_digits(part) for part in power.args)
    return base * _ten_to(exponent)


@_digits.register
def _(value: CombinatorialFunction) -> float:
    argument = sum(_digits(part) for part in value.args)
    return argument * _ten_to(argument)


def _ten_to(digits: float) -> float:
    return 10.0 ** min(digits, 300.0)
