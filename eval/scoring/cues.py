"""What the words around a statement say of it: the answer, a guess, a denial, or since corrected.

Every function takes the whole text and the place `[start, end)` of the statement in it.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import NamedTuple

from caprl_native.text.answer_words import AnswerWords, language_of

_LINK = (
    r"(?:\W|\b(?:is|are|was|be|would|should|will|must|has|to|seems|appears|likely|most|probably|"
    r"definitely|clearly|therefore|thus|indeed|actually|options?|choices?|letter|the|an?|either)\b|"
    r"[是为為应應该該选選项項])*$"
)
_FINAL = re.compile(
    r"(?:(?<![a-z])(?:answer(?:s|'s)?|ans)(?: to (?:the|this) question)?"
    r"|\b(?:correct|right|best|final|closest)\s+(?:option|choice|one|letter|statement|selection)"
    r"|\b(?:choose|choosing|chose|pick|select|go with|going with|opt for|settle on|would say"
    r"|'d say)\b|答案|选择|[选選])" + _LINK,
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r"(?:\b(?:so|hence|thus|therefore|it is|it's|it must be|must be|should be|I think|I believe|"
    r"guess|probably|likely|definitely|clearly|certainly|obviously)\b|因此|所以|故)" + _LINK,
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"[\s\"')\].:,?-]*(?:option|选项|项)?\s*(?:(?:is|was|seems|looks|must be|would be)\s+)?"
    r"(?:(?:the|a|most|only|definitely|clearly|indeed)\s+)*"
    r"(?:(?:correct|right|true|yes|answer|better|more likely|best (?:answer|option|choice|match))\b"
    r"|是?正确|是?对的)",
    re.IGNORECASE,
)
# Neither cues nor the clauses they stand in are longer; without a bound, the searches before every
# statement of a long text are quadratic.
_WINDOW = 160

# "the answer is" starts a clause of its own, except in "I don't think the answer is".
_ASSERTS = r"(?<!think )(?<!believe )(?<!that )(?<!if )(?<!whether )(?<!not )(?<!n't )"
_CLAUSE_BREAK = re.compile(
    r"[.;!?\n,:。]|\b(?:(?<!all )(?<!anything )but|so|hence|thus|therefore|while|whereas|because|"
    r"since|although|though|however|yet|instead(?! of))\b|而是|所以|因此|但"
    rf"|{_ASSERTS}\b(?:the|my) (?:(?:final|correct|best|right) )?(?:answer|option|choice)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|no|none|without|cannot|except|exclud\w*|eliminat\w*|rul\w* out|"
    r"reject\w*|rather than|instead of|other than|unlike|unlikely|incorrect|wrong|doubt|unable|"
    r"impossible|unclear|uncertain|(?:all|anything) but|(?:more|less|fewer|greater) than|"
    r"at (?:least|most))"
    r"\b|n't\b|不|非|没|無|无|排除|除了",
    re.IGNORECASE,
)
# "The colour that does not appear is B": what was asked for is described so, and B is not denied.
_DESCRIBED = re.compile(
    r"^\W*(?:the\s(?:[\w'-]+\s){1,4})?(?:that|which|who)\s(?:(?:is|are|was|were|does|do|did|has|have|can)"
    r"(?:\snot|n't)|cannot)\s(?:[\w'-]+\s){1,6}(?:is|are|was|were)\s"
    r"(?:\W|\b(?:options?|choices?|letter|the|an?)\b)*$",
    re.IGNORECASE,
)
_BOUND_BEFORE = re.compile(
    r"(?:\b(?:over|under|above|below|beyond|up to|exceed(?:s|ed|ing)?|as (?:many|much|few) as)"
    r"|大于|小于|多于|少于|高于|低于|超过|至少|至多|最多|最少)\W*$",
    re.IGNORECASE,
)
_BOUND_AFTER = re.compile(
    r"[\s%]*(?:(?:[a-z]+\s)?\b(?:or|and)\s(?:more|less|fewer|above|below|over|under|up|greater|higher|lower)\b"
    r"|多?个?(?:以上|以下|以内))",
    re.IGNORECASE,
)
_TENTATIVE = re.compile(
    r"\b(?:could|might|may|maybe|perhaps|possibly|initially|at first|first|considered|thought)\b"
    r"|可能",
    re.IGNORECASE,
)
_ASKED = re.compile(r"[\"')\]]*\s*[?\uff1f]")
_WRONG = r"(?:wrong|incorrect|false|inaccurate|ruled out|eliminated|excluded|impossible|unlikely)\b"
_VERB = (
    r"(?:is|are|was|were|seems?|looks?|can|could|do|does|did|would|must|should|has|have|both|all|"
    r"also|clearly|probably|definitely|therefore|thus|be)\s+"
)
_LETTER_DENIED = re.compile(
    r"[\s\"')\]]*(?:选项|项)?(?:"
    rf"(?:[:(,-]\s*|which\s+|that\s+)?(?:{_VERB})*{_WRONG}"
    rf"|(?:{_VERB})+(?:not|never|no|out)\b|(?:\w+n't|cannot)\b"
    r"|\s*[:-]\s*no\b\W+[A-Z]\b|[是都也]*(?:不|错|錯|排除|没))",
    re.IGNORECASE,
)
# "The red cup is not moving" may well be the answer; "the red cup is not mentioned" is none.
_TEXT_DENIED = re.compile(
    rf"[\s\"')\]]*(?:{_VERB})+(?:{_WRONG}|not\s+(?:correct|right|the (?:answer|correct)|mentioned|"
    r"shown|visible|present|it\b|possible|an option|supported))|是?(?:不对|错|不正确)",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\bwait\b(?=\s*[,.!\u2014-])|\bactually\b|\bon (?:second|further) \w+|\bon reflection\b|"
    r"\bcorrection\b|\bsorry\b|\bscratch that\b|\bI mean(?:t)?\b|(?<=[.?!,;\u2014-] )no\b(?=[,.])|"
    r"\bhmm\b|\boops\b|不对[,。]|更正",
    re.IGNORECASE,
)


def is_final(text: str, start: int, end: int) -> bool:
    """True for "the answer is B", "I choose B", "B is correct"."""
    window = max(0, start - _WINDOW)
    if _FINAL.search(text, window, start) or _CONFIRMED.match(text, end):
        return True
    words = foreign(text)
    return bool(words and (words.final.search(text, window, start) or words.right.match(text, end)))


def is_concluded(text: str, start: int) -> bool:
    """True for "so B", "it is B", "probably B"."""
    window, words = max(0, start - _WINDOW), foreign(text)
    concluded = _CONCLUDED.search(text, window, start)
    return bool(concluded or (words and words.concluded.search(text, window, start)))


def is_denied(text: str, start: int, end: int, by_letter: bool) -> bool:
    """True for "not B", "neither A nor B", "B is wrong"; `by_letter`: a letter is named there.

    A negation earlier in the same clause denies the statement too: "does not mention blue".
    """
    after = _LETTER_DENIED if by_letter else _TEXT_DENIED
    clause, words = _clause(text, start), foreign(text)
    if (_NEGATION.search(clause) and not _DESCRIBED.match(clause)) or after.match(text, end):
        return True
    return bool(words and (words.no.search(clause) or words.wrong.match(text, end)))


def is_bound(text: str, start: int, end: int) -> bool:
    """True for the number of "over 8", "8 or more", "超过8": it is not the value."""
    before = _BOUND_BEFORE.search(text, max(0, start - _WINDOW), start)
    return bool(before or _BOUND_AFTER.match(text, end))


def is_tentative(text: str, start: int, end: int) -> bool:
    """True for "it could be B", "first I thought B", "B?"."""
    return bool(_TENTATIVE.search(_clause(text, start)) or _ASKED.match(text, end))


def corrected_at(text: str) -> int:
    """Where `text` last takes back what it said before ("Wait, no."); 0 if it never does."""
    return max((match.end() for match in _CORRECTION.finditer(text)), default=0)


def _clause(text: str, end: int) -> str:
    """What stands before `end` in the same clause."""
    start = max(0, end - _WINDOW)
    breaks = [match.end() for match in _CLAUSE_BREAK.finditer(text, start, end)]
    if words := foreign(text):
        breaks += [match.end() for match in words.but.finditer(text, start, end)]
    return text[max(breaks, default=start) : end]


class ForeignWords(NamedTuple):
    """The patterns above, and those of lists and of letters' places, in another language."""

    final: re.Pattern[str]
    concluded: re.Pattern[str]
    right: re.Pattern[str]
    no: re.Pattern[str]
    wrong: re.Pattern[str]
    but: re.Pattern[str]
    lead: re.Pattern[str]
    either: re.Pattern[str]


@lru_cache(maxsize=256)
def foreign(text: str) -> ForeignWords | None:
    """The patterns of the language of `text`; None for English, Chinese and unknown ones."""
    words = language_of(text)
    return _patterns(words) if words else None


@cache
def _patterns(words: AnswerWords) -> ForeignWords:
    link = rf"(?:{words.link}|\W){{0,20}}$"
    sources: dict[str, str] = dict(
        final=words.answer + link,
        concluded=words.so + link,
        right=r"[\s\"')\]」』）]{0,5}" + words.right,
        no=words.no,
        wrong=r"[\s\"')\]」』）]{0,5}" + words.wrong,
        but=words.but,
        lead=rf"(?:{'|'.join((words.answer, words.link, words.so, words.no, words.but))}"
        rf"|{words.either})\W{{0,5}}$",
        either=rf"[\s,、]{{0,5}}{words.either}[\s\"'(]{{0,5}}(?:{words.link}\s?){{0,3}}",
    )
    return ForeignWords(**{k: re.compile(s, re.IGNORECASE) for k, s in sources.items()})
