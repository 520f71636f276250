"""The process that does mathematics for `symbolic`: asked line by line, killed where it is slow.

    python -m eval.scoring._sympy_process

Nothing interrupts Python while it works out a large integer, and math-verify's own alarms need the
main thread. So a keeper (this program) loads sympy once and forks a worker; a question that takes
the worker longer than `CPU_S` of processor time, or `WALL_S` in all, or more memory than `MEMORY`,
ends the worker, and the next question gets a new one. Questions and answers are JSON, one a line;
null is the answer to what was given up, and {"failure": reason} to what the libraries failed on.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, singledispatch
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.functions.combinatorial.factorials import CombinatorialFunction
from sympy.matrices.matrixbase import MatrixBase

CPU_S, WALL_S = 0.5, 30.0  # where all cores are taken, little work takes long
MEMORY = 2 << 30  # bytes of address space

MAX_NODES = 500
MAX_DIGITS = 20_000.0
# (x+1)^100 takes a second, (x+1)^1000 more than fifteen.
MAX_TERMS = 500

_PR_SET_PDEATHSIG = 1  # of prctl(2)

# It warns, once each for parsing and comparing, that its alarms are off.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)


# ---------------------------------------------------------------- mathematics


@lru_cache(maxsize=512)
def _parse(text: str) -> tuple[Any, ...]:
    """What math-verify finds first in `$text$`; an expression that is not affordable left out."""
    found = parse(
        f"${text}$", [LatexExtractionConfig()], extraction_mode="first_match", parsing_timeout=None
    )
    return tuple(value for value in found if isinstance(value, str) or _affordable(value))


def _value(given: Any) -> Any:
    """A text, or the expression that {"latex": source} stands for."""
    if isinstance(given, str):
        return given
    return next(value for value in _parse(given["latex"]) if not isinstance(value, str))


def _expressions(texts: Sequence[str]) -> list[Any]:
    return [value for text in texts for value in _parse(text) if not isinstance(value, str)]


def _answer_parse(text: str) -> dict[str, Any]:
    found = _parse(text)
    return {
        "expression": any(not isinstance(value, str) for value in found),
        "texts": [value for value in found if isinstance(value, str)],
    }


def _answer_equivalent(first: Sequence[Any], second: Sequence[Any]) -> dict[str, Any]:
    values = [[_value(given) for given in side] for side in (first, second)]
    return {"equal": bool(verify(*values, timeout_seconds=None))}


def _answer_any(wanted: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    golds, values = _expressions(wanted), _expressions(given)
    equal = any(verify(gold, value, timeout_seconds=None) for gold in golds for value in values)
    return {"read": bool(golds), "equal": bool(equal)}


_ANSWERS: dict[str, Callable[..., dict[str, Any]]] = {
    "parse": _answer_parse,
    "equivalent": _answer_equivalent,
    "any": _answer_any,
}


def _affordable(expression: Any) -> bool:
    """Whether sympy can evaluate and simplify the expression in reasonable time.

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
        if _terms(entry) > MAX_TERMS:
            return False
    return sum(_digits(entry) for entry in entries) <= MAX_DIGITS


def _terms(expression: Any) -> int:
    """Terms of the expanded expression, at most MAX_TERMS + 1; powers of powers multiply."""
    most = MAX_TERMS + 1
    parts = [_terms(part) for part in getattr(expression, "args", ())]
    if isinstance(expression, sympy.Add):
        return min(sum(parts), most)
    if isinstance(expression, sympy.Pow):
        base, exponent = expression.args
        if not (base.free_symbols and exponent.is_Integer) or parts[0] == 1:
            return 1
        others = parts[0] - 1
        return min(math.comb(min(abs(int(exponent)), most) + others, others), most)
    return min(math.prod(parts), most)


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


# ---------------------------------------------------------------- worker


def _answer(question: str) -> str:
    asked = json.loads(question)
    try:
        return json.dumps(_ANSWERS[asked.pop("op")](**asked))
    except Exception as error:  # of a library that was given anything at all; `symbolic` logs it
        return json.dumps({"failure": f"{type(error).__name__}: {error}"[:200]})


def _work(questions: int, answers: int) -> None:
    """Answers until the keeper is gone. The timer's signal ends the process where it stands."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(questions) as coming, os.fdopen(answers, "w") as going:
        for question in coming:
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            answer = _answer(question)
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(answer, file=going, flush=True)


class _Worker:
    """A forked process with two pipes."""

    def __init__(self) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                for end in (0, ours_in, ours_out):
                    os.close(end)
                _work(theirs_in, theirs_out)
                status = 0
            finally:
                os._exit(status)
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = ours_out, ours_in

    def ask(self, question: str) -> str | None:
        """The answer, or None where the worker gave up or was too slow: then it is no more."""
        data = question.encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except BrokenPipeError:
            return None
        answer = b""
        while not answer.endswith(b"\n"):
            ready = select.select([self._in], [], [], WALL_S)[0]
            part = os.read(self._in, 1 << 16) if ready else b""
            if not part:
                return None
            answer += part
        return answer.decode()

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # a zombie until it is waited for, so the id is its own
        os.waitpid(self.pid, 0)
        os.close(self._out)
        os.close(self._in)


_FIRST = ("1+x", r"\frac{1}{2}", r"(x+1)^2", r"2\sqrt{8}")


def main() -> None:
    """Answers the questions of standard input on standard output until it is closed."""
    for text in _FIRST:  # loads what is loaded late, so that no worker has to
        verify(list(_parse(text)), list(_parse(_FIRST[0])), timeout_seconds=None)
    worker = _Worker()
    print("ready", flush=True)
    for question in sys.stdin:
        answer = worker.ask(question.strip())
        print(answer.strip() if answer else "null", flush=True)
        if answer is None:
            worker.end()
            worker = _Worker()
    worker.end()


if __name__ == "__main__":
    main()
