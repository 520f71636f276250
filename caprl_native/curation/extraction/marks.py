"""The lines of a writer's output: markup taken off, and what each of them is.

No pattern repeats a repetition, and what stands between two fixed marks is bounded: the time is
linear in the text, whatever it is.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import NamedTuple

_TAGS = re.compile(r"</?(?:b|i|u|strong|em|p|br|li|ul|ol|div|span|options?|choices?)\s*/?>", re.I)
_FIELDS = re.compile(r"<(question|answer)>|</(?:question|answer)>", re.I)  # XML-like output
_ITALIC = re.compile(r"(?<![\w*])\*([^*\s][^*\n]{0,300})\*(?![\w*])")
_WRAPPED = re.compile(r"^__([^_].{0,2000}[^_])__$")
_BULLET = re.compile(r"^(?:#{1,6}\s*|>\s*|[-*+\u2022\u00b7\u25aa\u25cf\u25e6\u2013]\s+)")
_CHECKBOX = re.compile(r"^\[([ xX])\]\s+")
_SEPARATOR = re.compile(r"^[-=_*~\u2014\u2500\s]{3,}$")
_TABLE_RULE = re.compile(r"^[|:\s-]+$")

_LETTER = r"[A-Za-z\uff21-\uff3a\uff41-\uff5a]"
OPTION = re.compile(
    r"^(?:(?:option|choice)\s+(?=[A-Za-z]\b)|\u9009\u9879\s*(?=[A-Za-z\uff21-\uff3a](?![A-Za-z])))?"
    rf"(?:[(\uff08\[\u3010]\s?(?P<inner>{_LETTER})\s?[)\uff09\]\u3011]\s?[.:\uff1a\u3001]?"
    rf"|(?P<outer>{_LETTER})\s?(?P<mark>[)\uff09:\uff1a\u3001\uff0e]"
    r"|\.(?![A-Za-z]\.)|\s[-\u2013\u2014](?=\s)))"
    r"(?!\s*(?:and|or|&)\s)\s*(?P<rest>.*)$",
    re.DOTALL | re.IGNORECASE,
)

_WORD = (
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+|final\s+)?answers?(?:\s+(?:key|option|choice|"
    r"letter))?|ans\.?|(?:the\s+)?(?:correct|right)\s+(?:option|choice|letter)|correct"
    r"|(?:\u53c2\u8003|\u6b63\u786e|\u6807\u51c6|\u6700\u7ec8|\u672c\u9898)?\u7684?\u7b54\u6848"
    r"|\u6b63\u786e\u7684?\u9009\u9879|\u7b54(?=[:\uff1a]))"
)
ANSWER = re.compile(
    rf"^(?P<open>[(\[\uff08\u3010])?\s*(?P<word>{_WORD})(?![A-Za-z])(?:\s+for\s+question\s+\d{{1,3}})?"
    r"\s*(?P<close>[)\]\uff09\u3011])?"
    r"\s*(?P<link>(?:is|are|should\s+be|\u662f|\u4e3a|\u5e94\u4e3a|\u5e94\u662f|\u9009)(?![A-Za-z]))?"
    r"\s*(?P<mark>[:\uff1a=\u2192]|[-\u2013\u2014]{1,2}>?)?\s*(?P<value>.*)$",
    re.DOTALL | re.IGNORECASE,
)
_SHORT = re.compile(rf"^[(\uff08]?{_LETTER}[)\uff09.]?$")
# An answer behind the last option of a line.
TRAILING_ANSWER = re.compile(
    r"[\s;,|\uff1b\uff0c\u3002][(\[\uff08\u3010]?(?:(?:correct|right)\s+)?(?:answer|ans\.?"
    r"|(?:\u6b63\u786e)?\u7b54\u6848)\s?[\u3011\])]?(?:\s?[:\uff1a=]|\s(?:is|\u662f)\s|\u662f)"
    r"|\u3010(?:\u6b63\u786e)?\u7b54\u6848\u3011",
    re.IGNORECASE,
)

_COUNT = r"\d{1,3}|[\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]{1,3}"
_HEADINGS = (
    re.compile(  # Question 3: ..., Q3. ..., a word alone with a colon
        r"^(?:(?:question|ques|q)(?![A-Za-z])\s*[#.]?|\u95ee\u9898|\u9898\u76ee)\s*"
        rf"(?P<n>{_COUNT})?\s*(?P<side>[(\uff08][^()\uff08\uff09]{{0,60}}[)\uff09])?\s*"
        r"(?P<mark>[:\uff1a.\uff0e\u3001)\uff09\u2013\u2014-])?\s*(?P<rest>.*)$",
        re.DOTALL | re.IGNORECASE,
    ),
    re.compile(
        rf"^\u7b2c\s*(?P<n>{_COUNT})\s*[\u9898\u95ee]\s*[:\uff1a.\u3001]?\s*(?P<rest>.*)$",
        re.DOTALL,
    ),  # fmt: skip
    re.compile(  # 3. ..., 3) ..., 3、..., 3: ...; neither 2.5 nor 12:30
        r"^(?P<n>\d{1,3})\s?(?:[.\uff0e](?!\d)|[\u3001)\uff09]|[:\uff1a](?!\d)|\s[-\u2013\u2014](?=\s))"
        r"\s*(?P<rest>.*)$",
        re.DOTALL,
    ),
    re.compile(
        rf"^[(\uff08\[\u3010]\s?(?:\u95ee\u9898|\u9898\u76ee|question|q)?\s?(?P<n>{_COUNT})\s?"
        r"[)\uff09\]\u3011]\s*[:\uff1a.\u3001]?\s*(?P<rest>.*)$",
        re.DOTALL | re.IGNORECASE,
    ),
    re.compile(r"^(?P<n>[\u2460-\u2473])\s*(?P<rest>.*)$", re.DOTALL),
    re.compile(
        r"^(?P<n>[\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]{1,3})\u3001\s*(?P<rest>.*)$",
        re.DOTALL,
    ),
)
_OPTIONS_WORD = re.compile(
    r"^(?:(?:answer\s+)?(?:options|choices)|\u9009\u9879|\u5907\u9009\u9879|\u5907\u9009\u7b54\u6848)"
    r"\s*[:\uff1a]?\s*(?=$|[(\uff08A\uff21a])",
    re.IGNORECASE,
)
EXPLANATION = re.compile(
    r"^[(\[\u3010]?(?:explanation|rationale|reason(?:ing)?|justification|evidence|note|difficulty|"
    r"category|type|skill|\u89e3\u6790|\u89e3\u91ca|\u8bf4\u660e|\u7406\u7531|\u4f9d\u636e|\u5206\u6790|"
    r"\u8003\u70b9|\u96be\u5ea6)[\])\u3011]?\s*[:\uff1a\u3011]",
    re.IGNORECASE,
)
_KEY_PAIR = re.compile(
    r"(?<!\w)(?:q(?:uestion)?\s?|\u7b2c|\u95ee\u9898\s?)?(\d{1,3})\s?\u9898?\s?[.):\uff1a\u3001\uff0e\uff09-]{0,2}"
    rf"\s?[(\uff08]?({_LETTER})[)\uff09]?(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_RIGHT = (
    r"(?:[\u2713\u2714\u2705\u2611]\ufe0f?|[(\uff08\[]\s?(?:correct|right|correct answer|"
    r"right answer|answer|\u6b63\u786e"
    r"|\u6b63\u786e\u7b54\u6848|\u5bf9|\u2713|\u2714|\u2705)\s?[)\uff09\]]"
    r"|(?:<-{1,2}|\u2190)\s?(?:correct|answer|correct answer))"
)
_RIGHT_MARK = re.compile(rf"(?:^{_RIGHT}\s*|\s*{_RIGHT}$)", re.IGNORECASE)
_WRONG_MARK = re.compile(
    r"(?:^[\u2717\u2718\u274c\u2610\u2716]\ufe0f?\s*|\s*[\u2717\u2718\u274c\u2610\u2716]\ufe0f?$)"
)
_ORNAMENT = re.compile(r"^[^\w\s(\[\uff08\u3010]{1,4}\s+(?=\w)")  # a tick, an arrow
_KEYCAP = re.compile("([0-9])\ufe0f?\u20e3")
_NUMERALS = "\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d"


class Heading(NamedTuple):
    """The number and the text of a line that begins a question."""

    number: int | None
    rest: str


class Label(NamedTuple):
    """An option's letter, upper case; how it is marked ("()", ")", "."); and what follows."""

    letter: str
    style: str
    rest: str


def lines_of(text: str) -> list[str]:
    """The lines of an output, with what XML-like fields hold on lines of their own."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n")
    text = _FIELDS.sub(lambda m: f"\n{m[1]}: " if m[1] else "", text)
    return [line.replace("\u3000", " ").replace("\xa0", " ") for line in text.split("\n")]


def cleaned(line: str) -> str:
    """A line without Markdown, HTML and table marks."""
    line = _TAGS.sub(" ", line).replace("**", "").replace("`", "").replace("\\boxed", "")
    line = _KEYCAP.sub(r"\1. ", line)
    line = _of_table(line.strip())
    for _ in range(3):
        line = _BULLET.sub("", line, count=1).strip()
    if box := _CHECKBOX.match(line):
        line = line[box.end() :] + (" \u2713" if box[1] in "xX" else "")
    line = _ITALIC.sub(r"\1", line)
    return _WRAPPED.sub(r"\1", line).strip()


def _of_table(line: str) -> str:
    """A row of a table as a line: "| A | red |" as "A: red"."""
    if not line.startswith("|"):
        return line
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if len(cells) == 2 and len(cells[0]) <= 30:
        return f"{cells[0].rstrip(').:')}: {cells[1]}"
    return "  ".join(cells)


def is_separator(line: str) -> bool:
    """Whether a line, markup included, is a rule between questions."""
    return bool(_SEPARATOR.match(line.strip())) and len(line.strip()) >= 3


def is_table_rule(line: str) -> bool:
    """Whether a line is the rule below a table's head."""
    return "|" in line and "-" in line and bool(_TABLE_RULE.match(line.strip()))


def heading(line: str) -> Heading | None:
    """What a line says that begins a question; None for another line."""
    first, *others = _HEADINGS
    if (found := first.match(line)) and _is_heading(found):
        return Heading(_number(found["n"]), found["rest"].strip())
    for pattern in others:
        if found := pattern.match(line):
            rest = found["rest"].strip()
            inner = first.match(rest)
            if inner and not inner["n"] and _is_heading(inner):  # "1. Question: ..."
                rest = inner["rest"].strip()
            return Heading(_number(found["n"]), rest)
    return None


def _is_heading(found: re.Match[str]) -> bool:
    """Not of "Question the man": a number, or a colon, or nothing after the word."""
    if found["n"]:
        return True
    return bool(found["mark"] and found["mark"] in ":\uff1a.") or not found["rest"]


def _number(text: str | None) -> int | None:
    if not text:
        return None
    if text.isdecimal():
        return int(text)
    if len(text) == 1 and "\u2460" <= text <= "\u2473":
        return ord(text) - 0x245F
    tens, _, ones = text.rpartition("\u5341")
    ten = 10 * (_numeral(tens) or 1) if "\u5341" in text else 0
    return ten + _numeral(ones)


def _numeral(text: str) -> int:
    return _NUMERALS.find(text[-1]) + 1 if text else 0


def label(line: str) -> Label | None:
    """The option that a line holds; None for another line."""
    found = OPTION.match(line)
    if not found:
        return None
    letter = unicodedata.normalize("NFKC", found["inner"] or found["outer"]).upper()
    style = "()" if found["inner"] else unicodedata.normalize("NFKC", found["mark"].strip())
    return Label(letter, style, found["rest"].strip())


@cache
def _inline(letter: str, style: str) -> re.Pattern[str]:
    """An option's label inside a line, in the style of the option before."""
    both = f"[{letter}{letter.lower()}{chr(ord(letter) + 0xFEE0)}]" if style in ("()", ")") else (
        f"[{letter}{chr(ord(letter) + 0xFEE0)}]"
    )  # fmt: skip
    if style == "()":
        return re.compile(rf"[(\uff08\[\u3010]\s?{both}\s?[)\uff09\]\u3011]\s?[.:]?")
    before = r"(?<![A-Za-z0-9(\uff08'])"
    after = {
        ")": r"\s?[)\uff09]",
        ".": r"[.\uff0e](?![A-Za-z]\.)",
        "\u3001": "\u3001",
        ":": r"[:\uff1a]",
        "-": r"\s[-\u2013\u2014]\s",
    }
    return re.compile(before + both + after.get(style, re.escape(style)))


def options_in(line: str, first: str = "A", style: str = "") -> tuple[str, list[Label]]:
    """What stands before the options of a line, and these, from the letter `first` on.

    Two at least, in order and alike in style; or the line as it is and none.
    """
    for tried in [style] if style else ["()", ")", ".", "\u3001", ":"]:
        places = []
        position, letter = 0, first
        while found := _inline(letter, tried).search(line, position):
            places.append((found.start(), found.end(), letter))
            position, letter = found.end(), chr(ord(letter) + 1)
            if letter > "Z":
                break
        if len(places) >= 2:
            ends = [start for start, _, _ in places[1:]] + [len(line)]
            pieces = [line[b:e].strip() for (_, b, _), e in zip(places, ends, strict=True)]
            pieces = _without_commas(pieces)
            found_all = [Label(place[2], tried, p) for place, p in zip(places, pieces, strict=True)]
            return line[: places[0][0]].strip(), found_all
    return line, []


def _without_commas(pieces: list[str]) -> list[str]:
    """Options without what stands between them."""
    pieces = [piece.rstrip(" ;\uff1b/|") for piece in pieces]
    between = pieces[:-1]
    if all(piece.endswith((",", "\uff0c", "\u3001")) for piece in between):
        pieces = [*(piece[:-1].rstrip() for piece in between), pieces[-1]]
    return pieces


def without_options_word(line: str) -> str | None:
    """A line without the word "Options:" at its start; None where it has none."""
    found = _OPTIONS_WORD.match(line)
    return line[found.end() :] if found else None


class AnswerLine(NamedTuple):
    """What an answer line says; `for_all`: it may open a list of all questions' answers."""

    value: str
    for_all: bool


def answer_line(line: str) -> AnswerLine | None:
    """The answer that a line gives; None for another line."""
    found = ANSWER.match(_ORNAMENT.sub("", line))
    if not found:
        return None
    value, word = found["value"].strip(), found["word"].lower()
    enclosed = bool(found["open"] and found["close"])
    told = found["mark"] or found["link"] or enclosed
    if word == "correct" and not (found["mark"] and found["mark"] in ":\uff1a"):
        return None
    if not (told or not value or _SHORT.match(value)):
        return None
    if found["open"] and not found["close"]:
        value = value.rstrip(")]\uff09\u3011").strip()
    every = "answers" in word or "key" in word or "\u53c2\u8003" in word or not value
    return AnswerLine(value, every)


def key_pairs(line: str) -> list[tuple[int, str]]:
    """Numbers and letters of a line that has nothing else: "1. B  2. C"."""
    pairs = [(int(n), letter) for n, letter in _KEY_PAIR.findall(line[:2000])]
    return pairs if pairs and not re.search(r"\w", _KEY_PAIR.sub("", line[:2000])) else []


def unmarked(option: str) -> tuple[str, bool]:
    """An option without a tick or a cross, and whether a tick or "(correct)" says it is right."""
    option = _WRONG_MARK.sub("", option.strip())
    plain = _RIGHT_MARK.sub("", option)
    return plain.strip(), plain != option
