r"""The final answer in a model's output, and mathematical equality of two final answers.

`final_answer` is what the benchmarks' rules score. `math_equal` is the equality for benchmarks
with mathematical answers (MathVerse, MathVision, We-Math), by math-verify.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from eval.scoring.cues import is_denied
from eval.scoring.notation import as_latex, without_unit
from eval.scoring.symbolic import equivalent, parse_latex

# Longer than any final answer: an output without one of the marks, and longer, has not answered.
MAX_UNMARKED_CHARS = 200

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_BOX = re.compile(r"\\f?boxed\s*\{")
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)(?:</answer>|\Z)", re.DOTALL)
_PHRASE = re.compile(r"(?<!\bno )\banswer\s*(?:is\b|[:：])\s*[:：]?\s*", re.IGNORECASE)
# What follows "the answer is" and is none: "based on the chart", "clear."
_NO_ANSWER = re.compile(
    r"(?:based|clear|available|given|found|shown|provided|obvious|evident|derived|determined|"
    r"obtained|supported|stated|mentioned|visible)\b(?:\s+(?:on|in|from|by|at|above|below|here|"
    r"that|to|as)\b|\W*$)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)(.+?)(?<=\S)\*\*(?![\w*])")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))

# Signs that math-verify does not read; a root sign takes the number or the group after it.
_SIGNS = str.maketrans(
    {"°": r"^\circ ", "²": "^2", "³": "^3", "∞": r"\infty ", "½": r"\frac{1}{2}", "√": r"\sqrt"}
)
_ROOT = re.compile(r"√\s*(\d+|\w)")

_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:\s*[.:)].*)?", re.DOTALL)
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|exp|sqrt"
_WORD = re.compile(
    rf"(?<![\\a-z])(?!(?:{_FUNCTIONS})(?![a-z]))[^\W\d_]{{3,}}|[\u3040-\uffdc]", re.IGNORECASE
)
_MATH_SIGN = re.compile(r"[\d\\^_=+*/<>{}$]")


def final_answer(output: str) -> str:
    r"""The answer that `output` ends on, without thoughts and wrapping.

    After <think> is cut off (an unclosed one to the end), it is the last \boxed{...} with balanced
    braces; else the last <answer>, closed or not; else the line after the last "answer is" or
    "answer:"; else the whole text. Removed from it are \text{...} and like commands, $...$ and
    \(...\) around the whole, markdown bold and a trailing full stop.
    """
    return _unwrapped(_final(output))


def final_forms(output: str) -> list[str]:
    """`final_answer`, and the same with its full stop, which may be part of it: "U.S."."""
    return list(dict.fromkeys((final_answer(output), _unwrapped(_final(output), full_stop=True))))


def _final(output: str) -> str:
    text = _without_thoughts(output)
    return text if (marked := _marked(text)) is None else marked


def math_equal(prediction: str, answer: str) -> bool:
    """Whether the final answer in `prediction` equals the gold `answer`.

    A one-letter option ("B") and a gold in words compare as text but for case, since math-verify
    multiplies letters and takes anagrams for equal. Any other gold compares by math-verify; a
    number within words ("12 apples") is that number, and a unit that only one side has, or both
    have, is left out. A prediction that does not parse is not equal, and neither is a long one
    that marks no answer (`final_answer` lists the marks).

    Raises ValueError for a gold that neither parses nor is a word. Time: see `symbolic`.
    """
    gold = final_answer(answer)
    given = _given_answer(prediction)
    if re.fullmatch("[A-Z]", gold):
        letter = _LETTER.fullmatch(given)
        return bool(letter) and letter.group(1).upper() == gold
    if _WORD.search(gold) and not _MATH_SIGN.search(gold):
        return _folded(given) == _folded(gold)
    bare_gold, unit = without_unit(gold)
    bare, given_unit = without_unit(given)
    wanted, bare_wanted = _expressions(gold), _expressions(bare_gold)
    if not (wanted or bare_wanted):
        raise ValueError(f"math-verify cannot parse the gold answer {answer!r}")
    if _any_equal(wanted, _expressions(given)):
        return True
    comparable = unit == given_unit or not (unit and given_unit)
    return comparable and _any_equal(bare_wanted, _expressions(bare))


def _any_equal(wanted: Sequence[Any], given: Sequence[Any]) -> bool:
    return any(equivalent(value, found) for value in wanted for found in given)


def _given_answer(prediction: str) -> str:
    """The final answer of `prediction`; "" if nothing marks it and the text is long."""
    text = _without_thoughts(prediction)
    unmarked = _marked(text) is None
    return "" if unmarked and len(text.strip()) > MAX_UNMARKED_CHARS else final_answer(prediction)


def _expressions(text: str) -> list[Any]:
    """The sympy expressions that math-verify reads in `text`; [] if it reads none."""
    text = as_latex(text)
    numbers = list(re.finditer(r"-?\d[\d,]*(?:\.\d+)?%?", text))
    if len(numbers) == 1 and _WORD.search(text) and "\\" not in text:
        if is_denied(text, *numbers[0].span(), by_letter=False):
            return []
        text = numbers[0].group()
    text = _ROOT.sub(r"\\sqrt{\1}", text).translate(_SIGNS)
    return [value for value in parse_latex(text) if not isinstance(value, str)]


def _without_thoughts(output: str) -> str:
    """`output` after its reasoning; a chat template may have opened the tag in the prompt."""
    text = _THOUGHT.sub("", output).rpartition("</think>")[2]
    return text.partition("<think>")[0]


def _marked(text: str) -> str | None:
    """The answer by the first mark that occurs: box, tag, phrase; None if none does."""
    for start in reversed([found.end() for found in _BOX.finditer(text)]):
        if (end := _closing_brace(text, start)) is not None:
            return text[start:end]
    if tags := _TAG.findall(text):
        inner = _after_phrase(tags[-1])
        return tags[-1] if inner is None else inner
    return _after_phrase(text)


def _after_phrase(text: str) -> str | None:
    """The rest of the line after the last "answer is" or "answer:" that has one."""
    text = _BOLD.sub(r"\1", text)
    for found in reversed(list(_PHRASE.finditer(text))):
        line = text[found.end() :].partition("\n")[0].strip()
        if line and not _NO_ANSWER.match(line):
            return line
    return None


def _unwrapped(text: str, full_stop: bool = False) -> str:
    """`text` without the wrappers around the whole of it; `full_stop`: that stays."""
    text = _BOLD.sub(r"\1", text).strip()
    while (inner := _without_one_wrapper(text, full_stop)) != text:
        text = inner
    return text


def _without_one_wrapper(text: str, full_stop: bool) -> str:
    if text.endswith((".", "。")) and not full_stop:
        return text[:-1].strip()
    for opening, closing in _DELIMITERS:
        inner = text[len(opening) : -len(closing)]
        whole = len(text) > len(opening + closing) and opening not in inner
        if whole and text.startswith(opening) and text.endswith(closing):
            return inner.strip()
    command = _TEXT_COMMAND.match(text)
    if command and _closing_brace(text, command.end()) == len(text) - 1:
        return text[command.end() : -1].strip()
    return text


def _closing_brace(text: str, start: int) -> int | None:
    """Position of the brace that closes the one just before `start`; None if nothing does."""
    depth = 1
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return found.start()
    return None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
