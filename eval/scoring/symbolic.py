"""math-verify without its alarms: parsing LaTeX answers and comparing the results, in bounded time.

math-verify stops a long computation by SIGALRM, which works on the main thread only, takes the
alarm from whoever else set one, and cannot interrupt a large integer power. Here its work is done
in a process of its own (`_sympy_process`), which is killed where a question takes it more than
0.5 seconds of processor time; the expression is then compared as text only, which is logged. What
can be refused before any work is: texts beyond `MAX_CHARS`, deep nesting, many powers, long
numbers.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

MAX_CHARS = 500
MAX_DEPTH = 12  # of brackets
MAX_POWERS = 30
MAX_DIGITS = 200  # of one number
START_S, ANSWER_S = 120.0, 60.0  # the process ends what is too slow long before that

# Unlike powers and factorials, these are evaluated while they are parsed.
_EAGER = re.compile(r"binom|\\gcd|\\lcm|\\det|vmatrix")
_LARGE = re.compile(r"\d{6}|\^|!")
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS}}}")
_DEPTH = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


@dataclass(frozen=True)
class Expression:
    """Mathematics that math-verify read in `source`."""

    source: str


Value = Expression | str


class Comparison(NamedTuple):
    """`read`: some wanted text is mathematics. `equal`: and one of the given equals it."""

    read: bool
    equal: bool


def parse_latex(text: str) -> list[Value]:
    """What math-verify finds first in `$text$`: [expression, text], [text] or nothing.

    A text beyond the bounds gives [text], as one does that is no mathematics.
    """
    if not _is_modest(text):
        return [text.strip()]
    found = _ask({"op": "parse", "text": text})
    if found is None:
        return [text.strip()]
    return [*([Expression(text)] if found["expression"] else []), *found["texts"]]


def equivalent(first: Sequence[Value] | Value, second: Sequence[Value] | Value) -> bool:
    """Whether math-verify finds any value of `first` equal to any of `second`.

    Either is a list from `parse_latex` or one value. Not symmetric: an assignment `x = 5` is
    unwrapped by different rules on the two sides. Where the comparison is given up, the texts
    decide.
    """
    sides = [_listed(side) for side in (first, second)]
    texts = [{v.strip() for v in side if isinstance(v, str) and v.strip()} for side in sides]
    if texts[0] & texts[1]:
        return True
    if not all(any(isinstance(v, Expression) for v in side) for side in sides):
        return False
    values = [[{"latex": v.source} for v in side if isinstance(v, Expression)] for side in sides]
    found = _ask({"op": "equivalent", "first": values[0], "second": values[1]})
    return bool(found and found["equal"])


def any_equal(wanted: Sequence[str], given: Sequence[str]) -> Comparison:
    """Whether an expression in one of `given` equals one in `wanted`, by math-verify.

    Where that is given up, nothing is equal, and `wanted` counts as mathematics.
    """
    golds = [text for text in wanted if _is_modest(text)]
    if not golds:
        return Comparison(False, False)
    values = [text for text in given if _is_modest(text)]
    found = _ask({"op": "any", "wanted": golds, "given": values})
    return Comparison(found["read"], found["equal"]) if found else Comparison(True, False)


def _listed(values: Sequence[Value] | Value) -> Sequence[Value]:
    return [values] if isinstance(values, Expression | str) else values


def _is_modest(text: str) -> bool:
    """Whether it is worth a try: what is beyond these bounds is no answer that people give."""
    if len(text) > MAX_CHARS or (_EAGER.search(text) and _LARGE.search(text)):
        return False
    if text.count("^") > MAX_POWERS or _LONG_NUMBER.search(text):
        return False
    depth = deepest = 0
    for character in text:
        depth += _DEPTH.get(character, 0)
        deepest = max(deepest, depth)
    return deepest <= MAX_DEPTH


# ---------------------------------------------------------------- the process


def _ask(question: dict[str, Any]) -> dict[str, Any] | None:
    """The process's answer; None where it gave up."""
    # ASCII, so that lone surrogates and line ends travel, too.
    return _asked(json.dumps(question, ensure_ascii=True))


@lru_cache(maxsize=4096)
def _asked(question: str) -> dict[str, Any] | None:
    answer = _PROCESS.ask(question)
    reason = "it takes too long" if answer is None else answer.get("failure")
    if reason:
        log.warning("mathematics is compared as text only (%s): %.300s", reason, question)
        return None
    return answer


class _Process:
    """The other end of `_sympy_process`: started when it is first needed, shared by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, question: str) -> dict[str, Any] | None:
        """Raises RuntimeError where the process cannot be started."""
        with self._lock:
            for _ in range(2):  # somebody may have killed it
                running = self._running or self._started()
                try:
                    assert running.stdin is not None
                    running.stdin.write(question.encode() + b"\n")
                    running.stdin.flush()
                except BrokenPipeError:
                    self.end()
                    continue
                if line := _line(running, ANSWER_S):
                    return json.loads(line)
                self.end()
            return None

    def _started(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join([root, *(path for path in sys.path if path)])
        self._running = subprocess.Popen(
            [sys.executable, "-m", "eval.scoring._sympy_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        if _line(self._running, START_S).strip() != b"ready":
            self.end()
            raise RuntimeError("the process that compares mathematics (sympy) did not start")
        return self._running

    def end(self) -> None:
        if self._running:
            self._running.kill()
            self._running.wait()
            for pipe in (self._running.stdin, self._running.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # a question that it did not live to read
                    pipe.close()
        self._running = None


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The next line that it writes; empty if none comes."""
    assert process.stdout is not None
    ready = select.select([process.stdout], [], [], seconds)[0]
    return process.stdout.readline() if ready else b""


_PROCESS = _Process()
atexit.register(_PROCESS.end)


def _in_a_forked_child() -> None:
    """The parent's process is not shared: answers would go to whoever reads first."""
    global _PROCESS
    _PROCESS = _Process()


os.register_at_fork(after_in_child=_in_a_forked_child)
