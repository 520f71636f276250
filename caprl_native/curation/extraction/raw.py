"""A question as a writer wrote it, and the reasons why some are rejected."""

from __future__ import annotations

from dataclasses import dataclass, field

NO_ANSWER = "no answer line"
NOT_OFFERED = "letter not offered"
NO_SUCH_TEXT = "answer is none of the options"
DISAGREE = "letter and text disagree"
SEVERAL = "several answers"
NO_OPTIONS = "no options"
FEWER = "fewer options than asked"
MORE = "more options than asked"
LABELS = "labels repeated or out of order"
EQUAL = "two equal options"
EMPTY = "empty question or option"
ALL_OR_NONE = "option says all or none of the above"
CANNOT = "option says that it cannot be answered"
REFERS = "refers to a text"
CUT_OFF = "output cut off"
REPEATED = "same question twice"
STAMP = "time beyond the video's end"
TOO_MANY = "more questions than are read"

SHOWN = 600  # characters of a rejected question that are kept


@dataclass
class RawQuestion:
    """What stands in the output. `number`: of its heading; `line`: where it begins, from 1.

    `answers`: as written, one for each answer line; `marked`: options with a tick or "(correct)".
    `is_closed`: something follows its answer, so that it was not cut off.
    """

    question: str
    line: int
    choices: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    marked: list[int] = field(default_factory=list)
    number: int | None = None
    in_order: bool = True  # the options' labels
    is_closed: bool = False
    text: str = ""


@dataclass(frozen=True)
class Rejected:
    """A question that is left out: its text as written, shortened, and a reason from above."""

    text: str
    reason: str
    line: int = 1


@dataclass(frozen=True)
class Extracted:
    """A question that can be asked: `choices` without labels, `answer` the right one's index."""

    question: str
    choices: tuple[str, ...]
    answer: int
    line: int


def shortened(text: str) -> str:
    """At most `SHOWN` characters of a text."""
    text = text.strip()
    return text if len(text) <= SHOWN else text[: SHOWN - 2].rstrip() + " \u2026"
