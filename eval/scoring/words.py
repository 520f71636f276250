"""Free text made comparable: the part that answers, without markup, as stems of its words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from caprl_native.text.plain_text import bounded, normal_form
from caprl_native.text.thoughts import without_thoughts
from eval.scoring.numerals import FRACTIONS, NUMERALS, number_words_as_digits

ARTICLES = frozenset({"a", "an", "the"})

_SAME = NUMERALS | {"percent": "%", "grey": "gray"}

MAX_CHARS = 6000  # of an answer that are read; of a longer one its beginning and its end

_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\\boxed\s*\{")

_ESCAPED = re.compile(r"\\([%$&#_])")
_FRAC = re.compile(  # \\frac{1}{2}, \\frac12
    r"\\[dt]?frac\s?(?:\{([^{}]{1,40})\}\s?\{([^{}]{1,40})\}|(\d)\s?(\d))"
)
_FRACTIONS = str.maketrans({sign: f" {'/'.join(parts)} " for sign, parts in FRACTIONS.items()})
_LATEX_COMMAND = re.compile(r"\\[A-Za-z]+\s*(?=\{)|\\[()\[\],;! ]|<\|[^|<>]*\|>")
_TAG = re.compile(r"<(/?)([a-z]{1,20})(?:\s[^<>]*)?>", re.IGNORECASE)
_MARKDOWN = re.compile(r"[*`$#_~]")
_PLAIN_MARKS = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2212": "-"}
)

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_NUMBER = r"(?:(?<![\w)])-)?(?:\d+(?:,\d{3})*(?:[.:/]\d+)*|(?<![\w.)])\.\d+)"
_WORD = re.compile(rf"{_NUMBER}|%|[{_CJK}]|(?:(?![{_CJK}])[^\W\d_])+(?:'[a-z]+)?", re.IGNORECASE)
_WORD_BEHIND = re.compile(r"\s+\w")
# "x minus 2" and "5 minus 2" are differences.
_MINUS = re.compile(
    r"(?<![\d)])(?<![\d)]\s)(?<!\b\w\s)\b(?:minus|negative)\s+"
    rf"(?P<number>\.?\d|(?:{'|'.join(NUMERALS)})\b)",
    re.IGNORECASE,
)
_COUNTERCLOCKWISE = re.compile(r"\b(?:anti|counter)[- ]?clockwise\b", re.IGNORECASE)
_COMPARED = re.compile(r"[^\W_]|(?<![\w)])(?:-(?=\.?\d)|\.(?=\d))|(?<=\d)[.:/,%](?=\d|$)")
_ENDING = re.compile(r"(?<=[a-z]{3})(?:ing|ed|es|s|e)$")
_POINT_FIRST = re.compile(r"(?<![\d.])\.(?=\d)")
_CLOCK_ZEROS = re.compile(r"^0+(?=\d+:\d)")  # "00:15" is "0:15"
_DOUBLED = re.compile(r"(?<=[a-z]{2})([b-df-hj-np-tv-z])\1$")


class Word(NamedTuple):
    """A word of a text: its stem, and the slice `[start, end)` that it was read from."""

    stem: str
    start: int
    end: int


def answer_parts(output: str) -> list[str]:
    r"""Where the answer of `output` stands, the most explicit place first; never empty.

    The last <answer> block, the last \boxed{...}, and all that was said outside thoughts (see
    `thoughts`). A thought that was cut off is no answer.
    """
    said = without_thoughts(output)
    parts = [*_ANSWER_TAG.findall(said)[-1:], *_last_boxed(said), said]
    return [bounded(part, MAX_CHARS) for part in parts]


def _last_boxed(text: str) -> list[str]:
    """The content of the last box, if there is one; an unclosed box reaches to the end."""
    starts = [box.end() for box in _BOX.finditer(text)]
    if not starts:
        return []
    depth = 1
    for end in range(starts[-1], len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return [text[starts[-1] : end]]
    return [text[starts[-1] :]]


def cleaned(text: str) -> str:
    """`text` in Unicode's NFKC form without invisible characters, markdown, LaTeX and tags."""
    text = normal_form(bounded(text, MAX_CHARS).translate(_FRACTIONS)).translate(_PLAIN_MARKS)
    text = _FRAC.sub(lambda found: f"{found[1] or found[3]}/{found[2] or found[4]}", text)
    text = _LATEX_COMMAND.sub(" ", _ESCAPED.sub(r"\1", text))
    text = _COUNTERCLOCKWISE.sub("counterclockwise", _MARKDOWN.sub(" ", _untagged(text)))
    return _MINUS.sub(_negative, number_words_as_digits(text))


def _negative(found: re.Match[str]) -> str:
    number = found["number"].lower()
    return "-" + NUMERALS.get(number, number)


def _untagged(text: str) -> str:
    """`text` with a blank for every tag that is opened and closed; "<B>" alone is no tag."""
    opened: dict[str, list[tuple[int, int]]] = {}
    paired: list[tuple[int, int]] = []
    for tag in _TAG.finditer(text):
        name = tag[2].lower()
        if not tag[1]:
            opened.setdefault(name, []).append(tag.span())
        elif opened.get(name):
            paired += [opened[name].pop(), tag.span()]
    parts, place = [], 0
    for start, end in sorted(paired):
        parts.append(text[place:start])
        place = end
    return " ".join([*parts, text[place:]]) if paired else text


def words(text: str) -> list[Word]:
    """The words and numbers of `text` in order; every _CJK character is a word.

    Of a text that is longer than three answers may be, what is beyond that is not read.
    """
    return [Word(stem(m.group()), *m.span()) for m in _WORD.finditer(text, 0, 3 * MAX_CHARS)]


def stem(word: str) -> str:
    """`word` in lower case, without the endings of English inflection; numbers in digits.

    "sits", "sitting": "sit"; "Increases": "increas"; "four", "4.0": "4"; ".5": "0.5";
    "00:15": "0:15"; "Newton's": "newton".
    """
    word = word.casefold().removesuffix("'s")
    if word[-1:].isdigit():
        word = _POINT_FIRST.sub("0.", word.replace(",", ""))
        word = _CLOCK_ZEROS.sub("", word)
        return word.rstrip("0").rstrip(".") if re.fullmatch(r"-?\d+\.\d+", word) else word
    if word in _SAME:
        return _SAME[word]
    word = re.sub(r"(?<=[a-z]{2})(?:ies|ied)$", "y", word)
    return _DOUBLED.sub(r"\1", _ENDING.sub("", word))


def squashed(text: str) -> str:
    """`text` in lower case without blanks and marks, those inside numbers excepted."""
    return "".join(_COMPARED.findall(text.casefold()))


def content_stems(text: str) -> tuple[str, ...]:
    """The stems of `text` without its articles.

    The letter of a name ("Team A", "vitamin A deficiency") is no article.
    """
    found = words(text)
    kept = [word for i, word in enumerate(found) if not _is_article(text, word, first=i == 0)]
    return tuple(word.stem for word in kept)


def _is_article(text: str, word: Word, first: bool) -> bool:
    if word.stem not in ARTICLES or not _WORD_BEHIND.match(text, word.end):
        return False
    return first or text[word.start : word.end] != "A"


def find_stems(stems: Sequence[str], said: Sequence[Word]) -> list[tuple[int, int]]:
    """Every slice of a text of the words `said` that reads `stems`, articles in between aside."""
    ends = [(word.start, _end_of(stems, said, i)) for i, word in enumerate(said)]
    return [(start, end) for start, end in ends if end is not None]


def _end_of(stems: Sequence[str], said: Sequence[Word], first: int) -> int | None:
    """Where the words of `said` from `first` on have read all of `stems`; None if they do not."""
    matched = 0
    for i in range(first, len(said)):
        if said[i].stem == stems[matched]:
            matched += 1
            if matched == len(stems):
                return said[i].end
        elif i == first or said[i].stem not in ARTICLES:
            return None
    return None
