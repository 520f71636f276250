"""Questions out of what a writer wrote: `extract`, a pure function of the text."""

from __future__ import annotations

from caprl_native.curation.extraction import raw as reasons
from caprl_native.curation.extraction.checks import judged
from caprl_native.curation.extraction.lines import MOST, read_lines
from caprl_native.curation.extraction.objects import read_objects
from caprl_native.curation.extraction.raw import Extracted, RawQuestion, Rejected, shortened
from caprl_native.data.choices import squeezed
from caprl_native.text.thoughts import said

__all__ = ["Extracted", "Rejected", "extract"]


def extract(
    output: str, *, choices: int = 4, cut_off: bool = False, seconds: float | None = None
) -> tuple[list[Extracted], list[Rejected]]:
    """The questions of a writer's output, and what is left out with its reason (`raw.py`).

    English or Chinese, line by line or in JSON; thoughts are left out, and lines are counted
    without them. `choices`: options that were asked for; 0: any number. `cut_off`: the output ended
    for its length. `seconds`: the length of the video. Time linear in the output's length.
    """
    text, thoughts_cut = said(output)
    if thoughts_cut:
        return [], [Rejected(shortened(output[-400:]), reasons.CUT_OFF)]
    found = read_objects(text) or read_lines(text)
    kept: list[Extracted] = []
    rejected: list[Rejected] = []
    for place, raw in enumerate(found[:MOST]):
        is_last = cut_off and place == len(found) - 1
        judgement = _judged(raw, choices, is_last, seconds, kept)
        if isinstance(judgement, Extracted):
            kept.append(judgement)
        else:
            rejected.append(Rejected(raw.text, judgement, raw.line))
    if len(found) > MOST:
        rejected.append(Rejected(found[MOST].text, reasons.TOO_MANY, found[MOST].line))
    return kept, rejected


def _judged(
    raw: RawQuestion, choices: int, cut_off: bool, seconds: float | None, before: list[Extracted]
) -> Extracted | str:
    found = judged(raw, choices, cut_off=cut_off, seconds=seconds)
    if isinstance(found, Extracted):
        same = squeezed(found.question).casefold()
        if any(squeezed(other.question).casefold() == same for other in before):
            return reasons.REPEATED
    return found
