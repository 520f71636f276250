"""Which of the questions that a writer wrote can be asked, and why others cannot."""

from __future__ import annotations

import re
import unicodedata

from caprl_native.curation.extraction import raw as reasons
from caprl_native.curation.extraction.raw import Extracted, RawQuestion
from caprl_native.data.choices import LETTERS, squeezed
from caprl_native.rewards.prompts import says_cannot_answer

_ABOVE = re.compile(
    r"^(?:(?:all|none|both|any|neither|either)\s+(?:of\s+)?(?:the\s+|these\s+)?(?:above|these|them|"
    r"listed|(?:other\s+|above\s+|given\s+|listed\s+)?(?:options|choices|answers))"
    r"(?:\s+(?:options|choices|answers|above))?(?:\s+(?:is|are)\s+\w{1,12})?"
    r"|(?:both|neither|either|only)?\s*\(?[a-f]\)?\s*(?:and|or|nor|&)\s*\(?[a-f]\)?"
    r"(?:\s+(?:are\s+)?(?:both\s+)?(?:correct|right|true))?"
    r"|(?:\u4ee5\u4e0a|\u4e0a\u8ff0|\u524d\u9762).{0,6}(?:\u90fd|\u7686|\u5747|\u5168|\u6ca1\u6709|\u65e0\u4e00).{0,8}"
    r"|(?:\u4ee5\u4e0a|\u4e0a\u8ff0)(?:\u5168\u90e8|\u6240\u6709)?(?:\u9009\u9879|\u7b54\u6848)?"
    r"|(?:\u90fd\u4e0d|\u90fd|\u5168)\u662f|\u90fd\u4e0d\u5bf9|\u5168\u90e8\u6b63\u786e|\u6ca1\u6709\u6b63\u786e(?:\u9009\u9879|\u7b54\u6848)"
    r"|[A-F]\u548c[A-F](?:\u90fd.{0,4})?)$",
    re.IGNORECASE,
)
_TEXT = r"(?:caption|description|passage|paragraph|article|narration|summary|transcript|statement)"
_REFERS = re.compile(
    rf"\b(?:according\s+to|based\s+(?:only\s+|solely\s+)?(?:on|upon)|from|as\s+(?:described|stated|"
    rf"mentioned|noted)\s+in|(?:described|stated|mentioned|provided|given|noted|described)\s+(?:in|by)|in)"
    rf"\s+(?:the|this|that|your|its)\s+(?:above\s+|given\s+|provided\s+|following\s+|image\s+|video\s+|"
    rf"picture\s+|image's\s+|written\s+|text\s+|detailed\s+)?{_TEXT}\b"
    rf"|\b(?:the|this)\s+(?:above\s+|given\s+|provided\s+)?{_TEXT}\s+(?:says?|states?|mentions?|"
    r"describes?|implies|suggests|indicates?|tells)\b"
    r"|\baccording\s+to\s+the\s+(?:above|given|provided)\s+text\b"
    r"|(?:\u6839\u636e|\u6309\u7167|\u4f9d\u636e)(?:\u4ee5\u4e0a|\u4e0a\u8ff0|\u8be5|\u8fd9\u6bb5|\u7ed9\u5b9a\u7684?|\u56fe\u7247\u7684?|\u89c6\u9891\u7684?|\u56fe\u50cf\u7684?){0,2}"
    r"(?:\u6587\u5b57)?(?:\u63cf\u8ff0|\u8bf4\u660e\u6587\u5b57|\u77ed\u6587|\u6587\u7ae0|\u6bb5\u843d)"
    r"|\u63cf\u8ff0\u4e2d|(?:\u4e0a\u6587|\u6587\u4e2d)(?:\u63d0\u5230|\u6240\u8ff0|\u63cf\u8ff0)",
    re.IGNORECASE,
)
_STAMP = re.compile(r"(?<![\d:])(?:(\d{1,2}):)?(\d{1,3}):([0-5]\d)(?!\d|:\d)")
_CLOCK = re.compile(
    r"\b(?:clock|watch|timer|scoreboard|sign|display|screen|schedule|score)\b"
    r"|[\u949f\u8868\u5c4f\u724c]",
    re.IGNORECASE,
)
_LETTER = re.compile(
    r"^(?:(?:option|choice|\u9009\u9879|\u9009)\s*)?[(\uff08\[\u3010]?\s*([A-Za-z\uff21-\uff3a\uff41-\uff5a])(?![A-Za-z0-9'])"
    r"\s*[)\uff09\]\u3011]?\s*(?:[).:,;\u3001\u3002\uff0e\uff1a\uff0c-]|\u2013|\u2014)?\s*(.*)$",
    re.DOTALL | re.IGNORECASE,
)
_MORE_LETTERS = re.compile(
    r"^(?:and|or|&|/|,|\u548c|\u6216|\u3001)\s*[(\uff08]?[A-Za-z][)\uff09]?(?![A-Za-z])", re.I
)
_ENDS = " .\"'*`\u201c\u201d\u3002;\uff1b,\uff0c!"


def judged(
    raw: RawQuestion, choices: int, *, cut_off: bool = False, seconds: float | None = None
) -> Extracted | str:
    """The question, or the reason why it is rejected.

    `choices`: how many were asked for; 0: any number. `cut_off`: it is the last of an output that
    was. `seconds`: the length of the video that it is about.
    """
    if cut_off and not raw.is_closed:
        return reasons.CUT_OFF
    question = squeezed(raw.question)
    options = [squeezed(choice) for choice in raw.choices]
    if problem := _form(question, options, raw, choices):
        return problem
    if problem := _wording(question, options):
        return problem
    if seconds is not None and _is_beyond(question, options, seconds):
        return reasons.STAMP
    answer = _answer(raw, options)
    return (
        answer if isinstance(answer, str) else Extracted(question, tuple(options), answer, raw.line)
    )


def _form(question: str, options: list[str], raw: RawQuestion, choices: int) -> str:
    """What is wrong with the pieces."""
    if not question.strip(_ENDS + "?:"):
        return reasons.EMPTY
    if not options:
        return reasons.NO_OPTIONS
    if not raw.in_order:
        return reasons.LABELS
    if len(options) < (choices or 2):
        return reasons.FEWER
    if len(options) > (choices or len(LETTERS)):
        return reasons.MORE
    if not all(_essence(option) for option in options):
        return reasons.EMPTY
    return reasons.EQUAL if len({_essence(o) for o in options}) < len(options) else ""


def _wording(question: str, options: list[str]) -> str:
    """What is wrong with what it says."""
    if any(_ABOVE.match(option.strip(_ENDS)) for option in options if len(option) < 80):
        return reasons.ALL_OR_NONE
    if any(says_cannot_answer(option) for option in options):
        return reasons.CANNOT
    return reasons.REFERS if _REFERS.search(question[:2000]) else ""


def _is_beyond(question: str, options: list[str], seconds: float) -> bool:
    """Whether a time stamp lies behind the video's end; not of a clock that is to be read."""
    if _CLOCK.search(question):
        return False
    text = " ".join([question, *options])
    return any(_seconds(found) > seconds + 1 for found in _STAMP.finditer(text))


def _seconds(found: re.Match[str]) -> int:
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def stamps(text: str) -> bool:
    """Whether a text has a time stamp such as 01:23."""
    return bool(_STAMP.search(text))


def _answer(raw: RawQuestion, options: list[str]) -> int | str:
    """The right option's index, or what is wrong with the answer."""
    found: list[int | str] = [_meant(answer, options) for answer in raw.answers[:5]]
    found += raw.marked
    if not found:
        return reasons.NO_ANSWER
    problem = next((item for item in found if isinstance(item, str)), None)
    if problem:
        return problem
    return found[0] if len(set(found)) == 1 else reasons.SEVERAL


def _meant(answer: str, options: list[str]) -> int | str:
    """Which option an answer line means, by letter, by letter and text, or by text."""
    plain = _essence(answer.replace("{", " ").replace("}", " ").replace("$", " "))
    if not plain:
        return reasons.NO_ANSWER
    by_text = [i for i, option in enumerate(options) if _essence(option) == plain]
    letter = _LETTER.match(plain)
    if by_text:
        other = _index(letter[1]) if letter and not letter[2] else by_text[0]
        return reasons.DISAGREE if by_text[0] != other < len(options) else by_text[0]
    if not letter:
        return reasons.NO_SUCH_TEXT
    if _MORE_LETTERS.match(letter[2]) or _MORE_LETTERS.match(plain[letter.end(1) :].strip()):
        return reasons.SEVERAL
    rest = letter[2].strip(_ENDS + "()\uff08\uff09[]")
    if rest and _is_word(plain, options):
        return reasons.NO_SUCH_TEXT
    index = _index(letter[1])
    if index >= len(options):
        return reasons.NOT_OFFERED
    return index if not rest or _agrees(rest, options, index) else reasons.DISAGREE


def _is_word(plain: str, options: list[str]) -> bool:
    """ "a red car": the article, where no option begins so after its letter."""
    return bool(re.match(r"[ai] [a-z]", plain)) and not any(
        _essence(plain[1:]).startswith(_essence(option)) for option in options
    )


def _agrees(rest: str, options: list[str], index: int) -> bool:
    """Whether what follows a letter is its option's text, perhaps with a remark behind it."""
    texts = [_essence(option) for option in options]
    if rest in texts:
        return texts.index(rest) == index
    own = texts[index]
    if not rest.startswith(own) or not re.match(
        r"\s*[.,;:(\uff08\uff0c\u3002-]|\s+(?:because|since|as)\b", rest[len(own) :]
    ):
        return False
    longer = [t for t in texts if len(t) > len(own) and rest.startswith(t)]
    return not longer


def _index(letter: str) -> int:
    return LETTERS.index(unicodedata.normalize("NFKC", letter).upper())


def _essence(text: str) -> str:
    """A text in the form in which two are compared."""
    return squeezed(unicodedata.normalize("NFKC", text[:4000])).casefold().strip(_ENDS)
