r"""The final answer in a model's output, and mathematical equality of two final answers.

`final_answer` is what the benchmarks' rules score. `math_equal` is the equality for benchmarks
with mathematical answers (MathVerse, MathVision, We-Math), by math-verify.
"""

from __future__ import annotations

import re
import string
from fractions import Fraction
from typing import NamedTuple

from caprl_native.text.plain_text import bounded
from caprl_native.text.thoughts import without_thoughts
from eval.scoring.cues import is_bound, is_denied
from eval.scoring.letters import choice_letter
from eval.scoring.notation import as_latex, unit_within, without_lead, without_unit
from eval.scoring.numerals import (
    FRACTIONS,
    NUMERAL,
    NUMERALS,
    number_words_as_digits,
    numeral,
    plain_digits,
    same_number,
    scales_as_digits,
)
from eval.scoring.symbolic import any_equal
from eval.scoring.units import Unit

MAX_CHARS = 20_000  # of an answer that are read
# Longer than any final answer: an output without one of the marks, and longer, has not answered.
MAX_UNMARKED_CHARS = 200

_BOX = re.compile(r"\\f?boxed\s*\{")
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)(?:</answer>|\Z)", re.DOTALL)
_PHRASE = re.compile(
    r"(?:(?<!\bno )\banswer\s*(?:is\b|[:：])|答案(?:是(?!否)|为|為|[:：]))\s*[:：]?\s*",
    re.IGNORECASE,
)
# What follows "the answer is" and is none: "based on the chart", "clear."
_NO_ANSWER = re.compile(
    r"(?:based|clear|available|given|found|shown|provided|obvious|evident|derived|determined|"
    r"obtained|supported|stated|mentioned|visible)\b(?:\s+(?:on|in|from|by|at|above|below|here|"
    r"that|to|as)\b|\W*$)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)(.{1,400}?)(?<=\S)\*\*(?![\w*])")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
MAX_WRAPPERS = 20  # around one another
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))

# Signs that math-verify does not read; a root sign takes the number or the group after it.
_FRACTIONS = {sign: rf"\frac{{{above}}}{{{below}}}" for sign, (above, below) in FRACTIONS.items()}
_SIGNS = str.maketrans(
    {"°": r"^\circ ", "²": "^2", "³": "^3", "∞": r"\infty ", "√": r"\sqrt", **_FRACTIONS}
)
_ROOT = re.compile(r"√\s*(\d+|\w)")

_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:\s*[.:)].*)?", re.DOTALL)
_NAMED_LETTER = re.compile(
    r"(?i:point|vertex|angle|line|graph|curve|plot|figure|diagram|shape|image|picture|panel|part|"
    r"position|path|set|box|object) \(?([A-Z])\)?"
)
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|exp|sqrt"
_WORD = re.compile(
    rf"(?<![\\a-z])(?!(?:{_FUNCTIONS})(?![a-z]))[^\W\d_]{{3,}}|[\u3040-\uffdc]", re.IGNORECASE
)
MAX_SENTENCE = 1000  # characters
_DOLLARS = re.compile(r"\A\$([^$]*)\$(?=[^$]{0,40}\Z)")
_NUMBER = re.compile(rf"(?<![^\W\u3040-\uffdc])(?<!\.){NUMERAL}%?")
_HALF_DAY = re.compile(r"(?<=\d)(?P<clock>:\d\d)?\s?(?P<half>[ap])\.?\s?m\.?$", re.IGNORECASE)
_MATH_SIGN = re.compile(r"[\d\\^_=+*/<>{}$]")


def final_answer(output: str) -> str:
    r"""The answer that `output` ends on, without thoughts and wrapping.

    Thoughts cut off (an unclosed one to the end), it is the last \boxed{...} with balanced
    braces; else the last <answer>, closed or not; else the line after the last "answer is" or
    "answer:"; else the whole text. Removed from it are \text{...} and like commands, $...$ and
    \(...\) around the whole, markdown bold and a trailing full stop.
    """
    return _unwrapped(_final(output))


def final_forms(output: str) -> list[str]:
    """`final_answer`, and the same with its full stop, which may be part of it: "U.S."."""
    return list(dict.fromkeys((final_answer(output), _unwrapped(_final(output), full_stop=True))))


def _final(output: str) -> str:
    text = _spoken(output)
    return text if (marked := _marked(text)) is None else marked


def math_equal(prediction: str, answer: str) -> bool:
    """Whether the final answer in `prediction` equals the gold `answer`.

    A one-letter option ("B") and a gold in words compare as text but for case, since math-verify
    multiplies letters and takes anagrams for equal. Two numbers compare as such, in any notation
    (`numerals`); any other gold compares by math-verify. A number within words ("12 apples") is
    that number. A unit that only one side has is left out; where both have one, they are converted
    ("2 minutes" is "120 s"), and units of different quantities are never equal. A prediction that
    does not parse is not equal, and neither is a long one that marks no answer (`final_answer`
    lists the marks).

    Raises ValueError for a gold that neither parses nor is a word. Time: see `symbolic`.
    """
    gold = _spelled_number(final_answer(answer))
    given = _spelled_number(_given_answer(prediction))
    if re.fullmatch("[A-Z]", gold):
        return _letter(given) == gold
    alike = bool(gold) and _folded(given) == _folded(gold)
    if given == gold != "" or (_WORD.search(gold) and not _MATH_SIGN.search(gold)):
        return alike
    halves = [_HALF_DAY.search(text) for text in (gold, given)]
    if len({found["half"].casefold() for found in halves if found}) > 1:
        return False  # "5 am" and "5 pm"
    gold, given = (_HALF_DAY.sub(r"\g<clock>", text) for text in (gold, given))
    sides = _Quantity.of(gold), _Quantity.of(given)
    if alike and sides[0].unit == sides[1].unit:
        return True
    scaled = [_with_scales(text) for text in (gold, given)]
    if scaled != [gold, given]:
        equal = _equal_values(_Quantity.of(scaled[0]), _Quantity.of(scaled[1]), answer)
        if equal or (scaled[0] != gold and scaled[1] != given):
            return equal
    return _equal_values(*sides, answer)


def _with_scales(text: str) -> str:
    return scales_as_digits(text) if len(text) <= MAX_SENTENCE else text


def _spelled_number(text: str) -> str:
    """`text`, in digits where it is a number in words and nothing else."""
    number = number_words_as_digits(text)
    if numeral(number) is None:
        number = NUMERALS.get(text.casefold(), "")
    return number or text


def _letter(given: str) -> str | None:
    """The letter that an answer is, or means: "B", "b) 12", "point B", "B, because A is wrong"."""
    alone = _LETTER.fullmatch(given) or _NAMED_LETTER.fullmatch(given)
    return alone[1].upper() if alone else choice_letter(given, string.ascii_uppercase)


class _Quantity(NamedTuple):
    """An answer as mathematics: the whole of it, and what stands before its unit."""

    whole: str
    bare: str
    unit: Unit | None

    @classmethod
    def of(cls, text: str) -> _Quantity:
        text = _DOLLARS.sub(r"\1", plain_digits(text))
        bare, unit = without_unit(text)
        if unit is None and (number := _only_number(text)):
            unit = unit_within(text, number.end())
        return cls(_mathematics(text), _mathematics(bare), unit)


def _equal_values(gold: _Quantity, given: _Quantity, answer: str) -> bool:
    bares = [(gold.bare, given.bare)]
    if gold.unit and given.unit:
        if gold.unit.dimension != given.unit.dimension:
            pairs = []
        elif gold.unit.factor != given.unit.factor:
            ratio = given.unit.factor / gold.unit.factor
            pairs = [(gold.bare, _times(given.bare, ratio))]
        else:
            pairs = bares
    else:
        pairs = [*bares, (gold.whole, given.whole)]
    read, left = False, []
    for wanted, found in dict.fromkeys(pairs or [(gold.bare, "")]):
        one, other = numeral(wanted), numeral(found)
        if one and other:
            read = True
            if same_number(one, other):
                return True
        else:
            left.append((wanted, found))
    # At once, so that the time of one question is the time of the verdict.
    compared = any_equal([wanted for wanted, _ in left], [found for _, found in left])
    if not (read or compared.read):
        raise ValueError(f"math-verify cannot parse the gold answer {answer!r:.200}")
    return compared.equal


def _times(text: str, ratio: Fraction) -> str:
    number = numeral(text)
    if number is None:
        return rf"({text}) \cdot \frac{{{ratio.numerator}}}{{{ratio.denominator}}}" if text else ""
    value = number.value * ratio
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _given_answer(prediction: str) -> str:
    """The final answer of `prediction`; "" if nothing marks it and the text is long."""
    text = _spoken(prediction)
    unmarked = _marked(text) is None
    return "" if unmarked and len(text.strip()) > MAX_UNMARKED_CHARS else final_answer(prediction)


def _mathematics(text: str) -> str:
    """`text` as LaTeX that math-verify reads: the number alone where words stand around it."""
    text = without_lead(plain_digits(text))
    if number := _only_number(text):
        if is_denied(text, *number.span(), by_letter=False) or is_bound(text, *number.span()):
            return ""
        text = number.group()
    text = text if numeral(text) else as_latex(text)
    return _ROOT.sub(r"\\sqrt{\1}", text).translate(_SIGNS)


def _only_number(text: str) -> re.Match[str] | None:
    """The number of a text in words that has one number."""
    if len(text) > MAX_SENTENCE or "\\" in text or not _WORD.search(text):
        return None
    numbers = list(_NUMBER.finditer(text))
    return numbers[0] if len(numbers) == 1 else None


def _spoken(output: str) -> str:
    """`output` after its thoughts; a chat template may have opened them in the prompt."""
    return bounded(without_thoughts(output), MAX_CHARS)


def _marked(text: str) -> str | None:
    """The answer by the first mark that occurs: box, tag, phrase; None if none does."""
    boxes = [found.end() for found in _BOX.finditer(text)]
    closed = _closing_braces(text) if boxes else {}
    for start in reversed(boxes):
        if (end := closed.get(start - 1)) is not None:
            return text[start:end]
    if tags := _TAG.findall(text):
        inner = _after_phrase(tags[-1])
        return tags[-1] if inner is None else inner
    return _after_phrase(text)


def _after_phrase(text: str) -> str | None:
    """The rest of the line after the last "answer is" or "answer:" that has one."""
    text = _BOLD.sub(r"\1", text)
    for found in reversed(list(_PHRASE.finditer(text))):
        end = text.find("\n", found.end())
        line = text[found.end() : end if end >= 0 else len(text)].strip()
        if line and not _NO_ANSWER.match(line):
            return line
    return None


def _unwrapped(text: str, full_stop: bool = False) -> str:
    """`text` without the wrappers around the whole of it; `full_stop`: that stays."""
    text = _BOLD.sub(r"\1", text).strip()
    for _ in range(MAX_WRAPPERS):
        inner = _without_one_wrapper(text, full_stop)
        if inner == text:
            break
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
    if command and _closing_braces(text).get(command.end() - 1) == len(text) - 1:
        return text[command.end() : -1].strip()
    return text


def _closing_braces(text: str) -> dict[int, int]:
    """Position of the brace that closes each one that is closed; escaped ones are no braces."""
    closed: dict[int, int] = {}
    opened: list[int] = []
    for found in _BRACE.finditer(text):
        if found.group() == "{":
            opened.append(found.start())
        elif found.group() == "}" and opened:
            closed[opened.pop()] = found.start()
    return closed


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
