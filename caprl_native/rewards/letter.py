"""The letter in a short reply that was asked for one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from caprl_native.text.answer_words import AnswerWords, language_of
from caprl_native.text.plain_text import bounded, normal_form
from caprl_native.text.thoughts import without_thoughts

MAX_CHARS = 4000  # of a reply that are read

# A letter on its own: nothing alphanumeric around it, not the end of "don't" or start of "I'm".
_ALONE = r"(?<![A-Za-z0-9])(?<![A-Za-z]['\u2019.])([A-Za-z])(?![A-Za-z0-9]|['\u2019][A-Za-z])"
_LETTER = re.compile(_ALONE)
_REASON = (
    r"(?:(?:because|since|as|not|and\s+not|rather|instead|which|that|it|so|is|the|this)\b"
    r"|[A-Z]\s+(?:is|was)\s+(?:wrong|incorrect|false|not)\b"
    r"|\u56e0\u4e3a|\u7531\u4e8e|\u800c|\u4e0d\u662f)"
)
_OPENING = re.compile(
    r"[\W_]*([A-Za-z])(?:\s*[*_`\"'\]}]*\s*[).:]|(?:[^\w\n]|_)*(?:\n|$)"
    # "B, because A is wrong", "B because ...", "B - A is wrong"
    rf"|\s*[,;]\s*{_REASON}|\s+(?:because|since|rather than|instead of)\b"
    r"|\s+[-\u2013\u2014]\s+(?![A-Za-z]\b(?!\s+(?:is|was)\b)))",
    re.IGNORECASE,
)
_CUED = re.compile(
    r"(?:answer|option|choice|\u7b54\u6848|\u9009\u9879)(?:\s+(?:is|was|would be))?[^A-Za-z0-9]*?"
    + _ALONE,
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"(?:(?:\bnot|n['\u2019]t|\bneither|\bnor|\bexcept|\brather than|\binstead of)\s+"
    r"|\u4e0d\u662f\s*)"
    r"(?:(?:the\s+)?(?:answer|option|choice)\s+)?[\"'(*`]*"
    + _ALONE
    + r"(?:[\"')*`]*\s+n?or\s+[\"'(*`]*[A-Z]\b)*",
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"(?:\b[A-Z]\b\s*(?:,\s*(?:and|or)|,|and|or)\s+){0,9}" + _ALONE + r"[\"')*`]*\s+"
    r"(?:is|are|was|were|seems|looks)\s+(?:(?:clearly|obviously|definitely|both|also|all)\s+)?"
    r"(?:wrong|incorrect|false|impossible|not\b|ruled out|excluded)",
    re.IGNORECASE,
)
# At the end: "so C", "no, C", "but most likely C".
_CONCLUDED = re.compile(
    r"\b(?:so|hence|thus|therefore|but|no)\b[\s,:]*(?:(?:the answer|it|it's|is|must be|most likely|"
    r"probably|more likely|rather|i say|i'd say|i choose|i think)\b\W*){0,4}" + _ALONE + r"\W*$",
    re.IGNORECASE,
)
_MORE = re.compile(
    r"[^A-Za-z0-9]*(?:(?:or|and)\b|[,/&])\s*[(\"'*`]*" + _ALONE + r"(?!\s+(?:is|was|are)\b)",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(r"\b(?:(?:[A-Za-z]\.){2,}|[Nn]/[Aa]\b)")  # U.S.A., a.m., N/A
# After these, "A" or "I" is a choice and not a word of the sentence.
_VERBS = {"is", "was", "because", "since", "as", "or", "and", "would", "seems", "but", "not"}


def parse_letter(output: str, letters: Sequence[str]) -> str | None:
    """The one letter of `letters` that the reader means, upper case; None if none or several.

    `output` goes on after "The answer is": " B", "B.", "(C)", "**D**", "b) blue", or a sentence
    ("I think B", "Answer: C", "Not A, but B", "B, because A is wrong", "Die Antwort ist B"), after
    its thoughts. The article "A" and the pronoun "I" are no answers. Of a reply beyond `MAX_CHARS`
    its beginning and its end are read.
    """
    text = normal_form(bounded(without_thoughts(output), MAX_CHARS)).strip()
    text = _ABBREVIATION.sub(" ", text)
    allowed = {letter.upper() for letter in letters}
    words = [word for word in re.findall(r"[^\W_]+", text) if not word.isdigit()]
    if all(len(word) == 1 and word.isascii() for word in words):
        return _only({word.upper() for word in words}, allowed)  # "A B C D" does not choose
    opening = _OPENING.match(text)
    if opening and not _MORE.match(text, opening.end(1)):
        return _only({opening.group(1).upper()}, allowed)
    return _stated(text, allowed)


def _stated(text: str, allowed: set[str]) -> str | None:
    """The letter behind "the answer is", else the only one that is named and not denied."""
    language = language_of(text)
    kept = _WRONG.sub(" ", _REFUSED.sub(" ", text))
    cues, joins, foreign = [_CUED], [_MORE], language is not None
    if language:
        patterns = _patterns(language)
        kept = patterns.wrong.sub(" ", patterns.refused.sub(" ", kept))
        cues.append(patterns.cued)
        joins.append(patterns.more)
    cued = [
        m for cue in cues for m in cue.finditer(kept) if cue is not _CUED or not _is_word(kept, m)
    ]
    if cued:
        more = [join.match(kept, m.end(1)) for m in cued for join in joins]
        return _only({m.group(1).upper() for m in [*cued, *more] if m}, allowed)
    if (last := _CONCLUDED.search(kept)) and (letter := _only({last.group(1).upper()}, allowed)):
        return letter
    loose = [
        m for m in _LETTER.finditer(kept) if m.group(1).isupper() and not _is_word(kept, m, foreign)
    ]
    return _only({m.group(1) for m in loose}, allowed)


# Lower case only at the end of a line: "a" is a word in most languages.
_CAPITAL = (
    r"(?<![A-Za-z0-9])(?<![A-Za-z]['\u2019.])((?-i:[A-Z])|[A-Za-z](?=[^\w\n]*(?:\n|$)))"
    r"(?![A-Za-z0-9]|['\u2019][A-Za-z])"
)


class _Patterns(NamedTuple):
    cued: re.Pattern[str]
    refused: re.Pattern[str]
    wrong: re.Pattern[str]
    more: re.Pattern[str]


@cache
def _patterns(words: AnswerWords) -> _Patterns:
    between = rf"(?:{words.link}|[^A-Za-z0-9\w]){{0,12}}?"
    return _Patterns(
        cued=re.compile(rf"{words.answer}{between}{_CAPITAL}", re.IGNORECASE),
        refused=re.compile(rf"{words.no}\s+(?:{words.link}|\s){{0,6}}[\"'(*`]*{_CAPITAL}", re.I),
        wrong=re.compile(rf"{_CAPITAL}{words.wrong}", re.IGNORECASE),
        more=re.compile(rf"\W*{words.either}\W*{_CAPITAL}", re.IGNORECASE),
    )


def _only(found: set[str], allowed: set[str]) -> str | None:
    found &= allowed
    return found.pop() if len(found) == 1 else None


def _is_word(text: str, match: re.Match[str], foreign: bool = False) -> bool:
    """True for "a man", "A man", "I think": the letter is an article or a pronoun.

    `foreign`: other languages than English write only "A" at the start so ("A resposta").
    """
    following = re.compile(r"\s+([^\W\d_]+)").match(text, match.end(1))
    if match.group(1).upper() not in "AI" or not following:
        return False
    if foreign:
        return match.start(1) == 0 and following.group(1).islower()
    if match.group(1).upper() == "I" and following.group(1) in ("would", "was"):
        return True
    return following.group(1).islower() and following.group(1) not in _VERBS
