"""Where a free text names the options of a question: by letter, or by the option's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from eval.scoring.cues import foreign
from eval.scoring.words import content_stems, find_stems, words

_ALONE = re.compile(r"(?<![A-Za-z0-9])(?<![A-Za-z]['.])[A-Za-z](?![A-Za-z0-9]|'[A-Za-z]|\+\+)")

# A letter after another word is an option only after one of these: "Plan B" and "Vitamin C" are
# names. After punctuation, or at the start of a line, it always is.
_LEAD_WORDS = (
    "is are was be been option options choice choices answer answers ans letter statement "
    "candidate alternative select selected choose chose chosen pick picked with for say says "
    "guess think thought mean meant believe consider considered so hence thus therefore since "
    "because while whereas if that or and nor not neither either both but between from to maybe "
    "perhaps as of than would mark exclude eliminate eliminated reject except out only just also "
    "final wait yes first then take takes prefer match matches make makes making support supports "
    "suggest suggests indicate indicates it"
)
_LEAD = re.compile(
    rf"(?:^|\n|[^\w\s]|\b(?:{'|'.join(_LEAD_WORDS.split())}|\w+ly|it's|that's|answer's|isn't|(?-i:[A-Z]))\s|"
    r"(?:based on|according to) the \w+\s|"
    r"[选選择擇是为為案项項和或者跟同并並有与與及不非即故以此应應到])\s*$",
    re.IGNORECASE,
)
# Longer than any of the above; a search in all of the text before would be quadratic.
_WINDOW = 40

# "A" and "I" before any other word are the article and the pronoun.
_PREDICATE = re.compile(
    r"(?:is|isn't|was|wasn't|because|since|as|and|or|nor|but|not|to|does|doesn't|has|seems|looks|"
    r"appears|matches|fits|describes|would|could|should|must|can't|cannot|can (?:not )?be|may|"
    r"might|rather|instead)\b(?!-)",
    re.IGNORECASE,
)
_PRONOUN_PREDICATE = re.compile(r"(?:is|isn't|because|since|or|nor|matches|fits|describes)\b", re.I)
_WORD_BEHIND = re.compile(r"[^\S\n]+(?=[A-Za-z]{2})")
_LETTER_BEHIND = re.compile(r"[^\S\n]+(?=[A-Za-z])")
# "A Dog", where the option's text is not known; longer ones are sentences ("A German man walks").
_TITLE = re.compile(r"[A-Z][a-z]+(?:\s+\S+){0,2}\s*$")

_GLUED_BEFORE = re.compile(r"(\w+)[-/&+]$")
_GLUED_AFTER = re.compile(r"[-/&+](\w+)")
_JUNK = r"[\s.,:;)(\]\[}{\"'>=\-\u2013\u2014、。]*"
_BETWEEN_LABEL_AND_TEXT = re.compile(rf"{_JUNK}(?:(?:a|an|the)\s+)?", re.IGNORECASE)
# "3-4" names neither 3 nor 4.
_RANGE_BEFORE = re.compile(r"\d\s?[-\u2013\u2014~]\s?$")
_RANGE_AFTER = re.compile(r"\s?[-\u2013\u2014~]\s?\d")
_REVERSED = re.compile(r"\b(?:non|un|anti|counter)-$", re.IGNORECASE)


class Mention(NamedTuple):
    """A place `[start, end)` where a text names option `letter`; `spelled`: by its words."""

    letter: str
    start: int
    end: int
    spelled: bool


def find_mentions(text: str, options: Mapping[str, str]) -> list[Mention]:
    """Every naming of an option in `text`, in order. An empty option text is an unknown one.

    A letter inside an option's text is no letter; a text inside a longer option's is not named.
    """
    spelled = _longest(_spelled(text, options))
    inside = {place for mention in spelled for place in range(mention.start, mention.end)}
    labelled = {(mention.letter, mention.start) for mention in spelled}
    lettered = [
        mention
        for match in _ALONE.finditer(text)
        if (mention := Mention(match.group().upper(), *match.span(), False)).letter in options
        and mention.start not in inside
        and _is_option(text, mention, options, labelled)
    ]
    return sorted([*spelled, *lettered], key=lambda m: m.start)


def is_label_for(text: str, label: Mention, other: Mention) -> bool:
    """True for "B. Blue", "(B) the red cup": a letter, and an option's words right behind it."""
    between = text[label.end : other.start]
    return not label.spelled and other.spelled and bool(_BETWEEN_LABEL_AND_TEXT.fullmatch(between))


def _spelled(text: str, options: Mapping[str, str]) -> list[Mention]:
    stems = {letter: content_stems(option) for letter, option in options.items()}
    said = words(text)
    found = [
        Mention(letter, start, end, True)
        for letter, option in stems.items()
        if option and not (len(option) == 1 and option[0].upper() in options)
        for start, end in find_stems(option, said)
        if not _REVERSED.search(text, max(0, start - _WINDOW), start)
        and not (_is_number(option) and _is_in_range(text, start, end))
    ]
    # "The man opens the door and leaves the room" names two.
    return found + [
        Mention(letter, start, end, True)
        for letter, rest in _distinctive(stems).items()
        for start, end in find_stems(rest, said)
        if not any(m.letter == letter and m.start <= start < m.end for m in found)
    ]


def _is_number(stems: tuple[str, ...]) -> bool:
    return len(stems) == 1 and stems[0][-1].isdigit()


def _is_in_range(text: str, start: int, end: int) -> bool:
    before = _RANGE_BEFORE.search(text, max(0, start - _WINDOW), start)
    return bool(before or _RANGE_AFTER.match(text, end))


def _distinctive(stems: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What is left of the options behind the words that all begin with, where two words are left.

    "The man opens the door", "The man leaves the room": "opens the door", "leaves the room".
    """
    known = [option for option in stems.values() if option]
    shared = 0
    while len(known) > 1 and len({option[: shared + 1] for option in known}) == 1:
        if shared == len(known[0]):
            return {}
        shared += 1
    rests = {letter: option[shared:] for letter, option in stems.items()}
    return {letter: rest for letter, rest in rests.items() if shared and len(rest) > 1}


def _longest(found: list[Mention]) -> list[Mention]:
    """`found` without those that overlap a longer one."""
    longest: dict[int, int] = {}
    for start, end in ((mention.start, mention.end) for mention in found):
        longest |= {i: max(longest.get(i, 0), end - start) for i in range(start, end)}
    return [m for m in found if all(longest[i] <= m.end - m.start for i in range(m.start, m.end))]


def _is_option(
    text: str, mention: Mention, options: Mapping[str, str], labelled: set[tuple[str, int]]
) -> bool:
    """True unless the letter is a word or part of a name; `labelled`: where options are spelled."""
    behind = _BETWEEN_LABEL_AND_TEXT.match(text, mention.end)
    own = behind is not None and (mention.letter, behind.end()) in labelled
    if not own and (_is_compound(text, mention, options) or _is_word(text, mention, options)):
        return False
    window, other = max(0, mention.start - _WINDOW), foreign(text)
    if _LEAD.search(text, window, mention.start):
        return True
    return bool(other and other.lead.search(text, window, mention.start))


def _is_compound(text: str, mention: Mention, options: Mapping[str, str]) -> bool:
    """True for the letters of "B-52", "Q&A", "x/B"; false for the list "A/B"."""
    left = _GLUED_BEFORE.search(text, max(0, mention.start - _WINDOW), mention.start)
    right = _GLUED_AFTER.match(text, mention.end)
    return any(side and side.group(1).upper() not in options for side in (left, right))


def _is_word(text: str, mention: Mention, options: Mapping[str, str]) -> bool:
    """True where the letter is the article ("A man", "so a") or the pronoun ("I think")."""
    letter = text[mention.start]
    if letter not in "AaIi":
        return False
    if letter == "A" and (other := foreign(text)):
        return mention.start == 0 and not other.right.match(text, mention.end)
    # "A B" is a list of options, "a B movie" is not.
    following = (_WORD_BEHIND if letter == "A" else _LETTER_BEHIND).match(text, mention.end)
    if not following:
        return False
    place = following.end()
    if letter in "Ii":
        return not _PRONOUN_PREDICATE.match(text, place)
    titled = letter == "A" and not options[mention.letter] and _TITLE.match(text, place)
    return not (_PREDICATE.match(text, place) or titled)
