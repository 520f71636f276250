"""The option letter that a free answer means, as a careful human reader would say.

The strict parser of the reward (`caprl_native.rewards.questions.parse_letter`) reads short replies
that were asked for a letter. Here any model's free text is read: reasoning, self-corrections,
lists, refusals, and options named by their words instead of their letter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from eval.scoring.cues import corrected_at, foreign, is_concluded, is_denied, is_final, is_tentative
from eval.scoring.mentions import Mention, find_mentions, is_label_for
from eval.scoring.words import answer_parts, cleaned, content_stems, squashed


class Rank(IntEnum):
    """How plainly a statement says that it is the answer."""

    TEXT = 0  # "The car is blue": an option's words
    LETTER = 1  # "C matches the caption": a letter
    CONCLUDED = 2  # "so B", "B. ..." at the start
    FINAL = 3  # "the answer is B", "B is correct"


class Statement(NamedTuple):
    """Options named together ("A or B") from `start` on, and what the words around say of them."""

    letters: frozenset[str]
    start: int
    rank: Rank
    denied: bool
    tentative: bool


def choice_letter(output: str, choices: Mapping[str, str] | Sequence[str] | str) -> str | None:
    """The upper-case letter of the option that `output` means; None if it means none, or several.

    `choices` maps letters to option texts; where the texts are unknown (or ""), letters suffice:
    "ABCD". The answer stands in the last <answer> or box that names an option, else in the text
    outside thoughts. The last statement of the answer wins; denied options and the article "A" do
    not count. A refusal ("cannot be determined") is None unless one option says just that. Raises
    ValueError for a choice that is not under a single letter.
    """
    options = _by_letter(choices)
    found = (_chosen(cleaned(part), options) for part in answer_parts(output))
    return next((letter for letter in found if letter), None)


def _by_letter(choices: Mapping[str, str] | Sequence[str] | str) -> dict[str, str]:
    texts = choices if isinstance(choices, Mapping) else dict.fromkeys(choices, "")
    wrong = [key for key in texts if not re.fullmatch("[A-Za-z]", key)]
    if wrong:
        raise ValueError(f"choices are keyed {list(texts)}; valid: letters from A to Z")
    return {letter.upper(): cleaned(text).strip() for letter, text in texts.items()}


# Neither letters nor negations, though they look like it.
_MISLEADING = re.compile(
    r"\b(?:(?:[A-Za-z]\.){2,}|N/A\b|(?:no|without|without a) doubt\b|not only\b|no question\b|"
    r"none other than\b)",
    re.IGNORECASE,
)


def _chosen(text: str, options: Mapping[str, str]) -> str | None:
    text = _MISLEADING.sub(" ", text)
    if whole := _whole(text, options):
        return whole
    stated = [s for s in _statements(text, find_mentions(text, options)) if not s.denied]
    if stated:
        return _decided(text, stated)
    return _kindred(text, options) or _predicated(text, options)


def _only(letters: Collection[str]) -> str | None:
    return next(iter(letters)) if len(letters) == 1 else None


# ---------------------------------------------------------------- the text as a whole


def _whole(text: str, options: Mapping[str, str]) -> str | None:
    """The option whose letter, or whose text, is all that `text` says."""
    letter = re.fullmatch(r"[^\w+]*([A-Za-z])[^\w+]*", text)
    if letter and letter.group(1).upper() in options:
        return letter.group(1).upper()
    said, stems = squashed(text), content_stems(text)
    same = [k for k, option in options.items() if option and _is_same(option, text)]
    equal = [k for k, option in options.items() if said and squashed(option) == said]
    alike = [k for k, option in options.items() if stems and content_stems(option) == stems]
    return _only(same) or _only(equal) or _only(alike)


def _is_same(option: str, text: str) -> bool:
    """Whether both are the same, their marks included: "x<2" is "x < 2" and not "x > 2"."""
    one, other = (
        "".join(t.casefold().split()).lstrip("\"'").rstrip(".\"'") for t in (option, text)
    )
    return one == other != ""


# What refusals, "none" and "all" look like, in options and in answers.
_KINDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:can ?not|can't|unable to|(?:impossible|not possible|hard|difficult) to|could ?n[o']t)"
        r"\s+(?:be\s+)?(?:determin|tell|told|answer|say|said|know|infer|judg|decid|identif)"
        r"|not (?:mentioned|stated|specified|given|clear|sure|known|enough|sufficient)"
        r"|insufficient|unclear|unknown|uncertain|undetermined|don't know"
        r"|无法|不能确定|不确定|不知道",
        r"\bnone of (?:the|these|those|them)\b|^\W*none\W*$|以上都不|都不是",
        r"\ball of (?:the|these|those|them)\b|\ball the above\b|以上都是|以上皆是",
    )
)


def _kindred(text: str, options: Mapping[str, str]) -> str | None:
    """The one option of the same kind as `text`: "cannot tell" is "Cannot be determined"."""
    for kind in _KINDS:
        if kind.search(text):
            return _only([letter for letter, option in options.items() if kind.search(option)])
    return None


_LAST_LINE = 80  # characters before an answer at the end in which its place is looked for
_SENTENCE = 200  # characters; longer texts are more than one sentence
_PREDICATION = re.compile(r"\W*(.+?)\s+(?:is|are|was|were)\s+(.+?)\W*", re.IGNORECASE)


def _predicated(text: str, options: Mapping[str, str]) -> str | None:
    """The option that `text` says as a sentence: "The cup is red" for "The red cup"."""
    parts = _PREDICATION.fullmatch(text) if len(text) <= _SENTENCE else None
    if not parts:
        return None
    stems = content_stems(parts.group(2)) + content_stems(parts.group(1))
    named = [k for k, option in options.items() if option and content_stems(option) == stems]
    return _only(named)


# ---------------------------------------------------------------- statements

_LIST = re.compile(
    r"[\s\"'()\[\],/&+|、-]*(?:(?:and|or|nor|as well as|plus|then|both|either|also|maybe|possibly|"
    r"perhaps|和|或|或者|与|與|及|以及|还是|還是|跟|同|还有|還有|并|並)[\s\"'(\[,/]*)*"
    r"(?:(?:options?|choices?|an?|the|to)\s+)*[\"'(\[]*",
    re.IGNORECASE,
)
_CONJUNCTION = re.compile(r"\b(?:and|or|nor)\b|[和或与與及跟同并並有]", re.IGNORECASE)
_DASH = re.compile(r"\s+[-\u2013\u2014]\s+|\s*\(")
_THEN = re.compile(r"\bthen\b", re.IGNORECASE)


def _statements(text: str, mentions: Sequence[Mention]) -> list[Statement]:
    """`mentions` with labels joined to their texts, and lists ("A, B or C") joined to one."""
    groups: list[list[Mention]] = []
    for mention in mentions:
        if groups and _joins(text, groups[-1], mention):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    return [_statement(text, group, mentions) for group in groups]


def _joins(text: str, group: Sequence[Mention], mention: Mention) -> bool:
    last, between = group[-1], text[group[-1].end : mention.start]
    letters = {other.letter for other in group}
    if is_label_for(text, last, mention):
        return True
    if letters == {mention.letter} and not re.search(r"\w", between):
        return True
    other = foreign(text)
    if other and other.either.fullmatch(between):
        return not is_denied(text, group[0].start, group[0].start, by_letter=False)
    if "\n" in between or not _LIST.fullmatch(between):
        return False
    listed = text[group[-2].end : last.start] if len(group) > 1 else ""
    if mention.letter in letters or (
        _CONJUNCTION.search(listed) and not _CONJUNCTION.search(between)
    ):
        return False  # "Between A and B, B is better", "Between A and C, B"
    if _DASH.fullmatch(between) and is_denied(text, mention.start, mention.end, by_letter=True):
        return False  # "B - A is wrong", "B (A is wrong)"
    if _THEN.search(between) and is_tentative(text, group[0].start, group[0].end):
        return False  # "At first A, then C"
    # "Not A, C" denies A alone; "not A, B or C" denies all of them.
    denied = is_denied(text, group[0].start, group[0].start, by_letter=False)
    return not denied or bool(_CONJUNCTION.search(between + text[mention.end : mention.end + 12]))


def _statement(text: str, group: Sequence[Mention], mentions: Sequence[Mention]) -> Statement:
    # The words after a label count for the label: "B. the red cup" is B whatever the words are.
    named = [group[0]] + [
        later
        for earlier, later in zip(group, group[1:], strict=False)
        if not is_label_for(text, earlier, later)
    ]
    start, end = group[0].start, max(mention.end for mention in group)
    by_letter = not all(mention.spelled for mention in group)
    return Statement(
        letters=frozenset(mention.letter for mention in named),
        start=start,
        rank=_rank(text, start, end, by_letter, mentions),
        denied=is_denied(text, start, end, by_letter),
        tentative=is_tentative(text, start, end),
    )


def _rank(text: str, start: int, end: int, by_letter: bool, mentions: Sequence[Mention]) -> Rank:
    if is_final(text, start, end):
        return Rank.FINAL
    if is_concluded(text, start) or _opens(text, start, end, mentions) or _closes(text, start, end):
        return Rank.CONCLUDED
    return Rank.LETTER if by_letter else Rank.TEXT


_WORD_CHARACTER = re.compile(r"\w")
_OPENED = re.compile(r"[\"'\])]*\s*(?:[.,;:\n-]|(?:because|since|as)\b|$)", re.IGNORECASE)
_LABEL = re.compile(r"[\"'\]]*\s*(?:[.):,]|\n|$)")
_LABEL_PLACE = re.compile(r"(?:^|\n|[.;|)\]])[\s\"'(\[]*$")


def _opens(text: str, start: int, end: int, mentions: Sequence[Mention]) -> bool:
    """True where `text` begins with its answer, and does not go through the labelled options."""
    if _WORD_CHARACTER.search(text, 0, start) or not _OPENED.match(text, end):
        return False
    return not any(
        other.start > end
        and not other.spelled
        and _LABEL.match(text, other.end)
        and _LABEL_PLACE.search(text, max(end, other.start - _LAST_LINE), other.start)
        and not is_denied(text, other.start, other.end, by_letter=True)
        for other in mentions
    )


_CLOSING_PLACE = re.compile(r"\w[^\w\n]*[:：]\s*[\"'(\[]*$|\n[\s\"'(\[]*$")
_LONE_LETTER_LINE = re.compile(r"(?:^|\n)\W*[A-Za-z]\W*\n\W*$")


def _closes(text: str, start: int, end: int) -> bool:
    """True where `text` ends on a letter behind a colon or on a line of its own.

    The last line of a list of letters is none.
    """
    window = max(0, start - _LAST_LINE)
    return (
        end == start + 1
        and not _WORD_CHARACTER.search(text, end)
        and bool(_CLOSING_PLACE.search(text, window, start))
        and not _LONE_LETTER_LINE.search(text, window, start)
    )


# ---------------------------------------------------------------- the decision


def _decided(text: str, stated: Sequence[Statement]) -> str | None:
    """The letter that the last plain statement gives, or that all of `stated` agree on."""
    corrected = corrected_at(text)
    stated = [statement for statement in stated if statement.start >= corrected] or stated
    stated = [s for s in stated if not (s.tentative and _outdone(s, stated))]
    top = max(statement.rank for statement in stated)
    best = [statement for statement in stated if statement.rank == top]
    if top >= Rank.CONCLUDED:
        return _only(best[-1].letters)
    return _only(frozenset().union(*(statement.letters for statement in best)))


def _outdone(guess: Statement, stated: Sequence[Statement]) -> bool:
    """True if something firmer was said than the tentative `guess`: "maybe B, but I say C"."""
    bar = min(guess.rank, Rank.LETTER)
    return any(not other.tentative and other.rank >= bar for other in stated)
