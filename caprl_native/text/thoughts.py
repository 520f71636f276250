"""What a model says beside its thoughts: the one place that knows how thoughts are marked.

Reasoning models think aloud before they answer, each family in marks of its own: <think>,
<seed:think>, [THINK], <|begin_of_thought|>, the analysis channel, and others. Their thoughts are
no answer, no judgement and no caption.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

CUT_OFF = "the model's thoughts were cut off before it said anything"

OPENS, CLOSES = "<think>", "</think>"  # of the families that are trained with thoughts

MAX_CHARS = 400_000  # far beyond any reply; what is longer is a model that repeats itself

_NAME = (
    r"(?:think(?:ing)?|thoughts?|reasoning|reflection|rationale|scratchpad|inner_monologue|"
    r"chain_of_thought|cot)"
)
# Opening and closing marks; a group named *_end matches in a closing one.
_MARK = re.compile(
    # <think>, </think>, <seed:think>, <thinking effort="high">, <thought_process>
    rf"<(?P<tag_end>/?)(?P<tag>(?:\w{{1,20}}[:_-])?{_NAME}(?:[:_-]\w{{1,20}})?)(?:\s[^<>/]{{0,200}})?>"
    # [THINK], in capitals alone: "[thinking]" may be a stage direction
    r"|\[(?P<bracket_end>/?)(?P<bracket>(?-i:THINK|THINKING|THOUGHT|REASONING))\]"
    r"|\u25c1(?P<triangle_end>/?)(?P<triangle>think(?:ing)?)\u25b7"
    # <|begin_of_thought|>, <|END_THINKING|>, <|think_start|>, <|/think|>
    rf"|<\|(?P<token_end>/|end_(?:of_)?)?(?:begin_(?:of_)?|start_(?:of_)?)?(?P<token>{_NAME})"
    r"(?:_(?:start|begin|(?P<late_end>end)))?\|>"
    # <|channel|>analysis<|message|>...<|end|>; <|channel>thought ... <channel|>
    r"|<\|channel\|>\s*(?P<channel>analysis|commentary)\b[^<]{0,200}(?:<\|message\|>)?"
    r"|(?P<final><\|channel\|>\s*final\b[^<]{0,200}(?:<\|message\|>)?)"
    r"|(?P<turn_end><\|(?:end|return|call)\|>)"
    r"|<\|channel>\s*(?P<gemma>thought)|(?P<gemma_end><channel\|>)"
    r"|(?P<inner><\|inner_prefix\|>)|(?P<inner_end><\|inner_suffix\|>)"
    r"|(?P<unused><unused94>)|(?P<unused_end><unused95>)",
    re.IGNORECASE,
)
# The channels of a server that drops the marks: "analysisThe user asks ... assistantfinalB".
_BARE_CHANNELS = re.compile(r"\A\s*analysis(?=[^\s\w]|[A-Z]).*assistantfinal", re.DOTALL)
# What such models put around the rest.
_SOLUTION = re.compile(r"<\|(?:(?:begin|end)_of_solution|(?:start|end)_response)\|>", re.IGNORECASE)
_KINDS = ("tag", "bracket", "triangle", "token", "channel", "gemma", "inner", "unused")


class Said(NamedTuple):
    """`text` outside thoughts; `cut_off`: there is none, and a thought was never closed."""

    text: str
    cut_off: bool


class _Mark(NamedTuple):
    start: int
    end: int
    kind: str
    closes: bool


def said(output: str) -> Said:
    """What `output` says outside thoughts. Time linear in its length.

    A closing mark without an opening one closes what the chat template opened in the prompt: all
    before it is thought. A thought without its closing mark reaches to the end. Texts without any
    mark are returned as they are, but for the middle of those longer than `MAX_CHARS`.
    """
    if len(output) > MAX_CHARS:
        output = output[: MAX_CHARS // 4] + output[-MAX_CHARS * 3 // 4 :]
    marks = [_read(found) for found in _MARK.finditer(output)]
    if not marks:
        return Said(_BARE_CHANNELS.sub("", output), False)
    parts: list[str] = []
    place, opened = 0, ""
    last_close = {mark.kind: mark.start for mark in marks if mark.closes}
    for mark in marks:
        if not mark.closes and not opened:
            parts.append(output[place : mark.start])
            opened = _closing_kind(mark, last_close)
            if not opened:
                text = _joined(parts)
                return Said(text, not text)
        elif mark.closes and opened in ("", mark.kind):
            if not opened and mark.kind != "turn":
                parts = []  # the prompt had opened it
            elif not opened:
                parts.append(output[place : mark.start])
            opened = ""
        else:
            continue  # a mark that a thought quotes
        place = mark.end
    return Said(_joined([*parts, output[place:]]), False)


def _joined(parts: list[str]) -> str:
    return _SOLUTION.sub("", " ".join(part for part in parts if part.strip()))


def without_thoughts(output: str) -> str:
    """`said(output).text`; "" where nothing was said."""
    return said(output).text


def thought_span(pieces: Sequence[str]) -> tuple[int, int]:
    """Which of an output's tokens, given by their texts, are thought: first, and end.

    The marks are left out. What stands before the opening mark is no thought; without one, thoughts
    begin with the output, as the prompt has opened them; without a closing one they end with it.
    The answer begins with the closing mark. (0, 0) where there is no mark.
    """
    output, ends = "".join(pieces), list(accumulate(map(len, pieces)))
    closes = output.find(CLOSES)
    opens = output.find(OPENS, 0, closes if closes >= 0 else len(output))
    if opens < 0 > closes:
        return 0, 0
    start = bisect_right(ends, opens + len(OPENS) - 1) + 1 if opens >= 0 else 0
    return start, bisect_right(ends, closes) if closes >= 0 else len(pieces)


def _read(found: re.Match[str]) -> _Mark:
    groups = found.groupdict()
    ends = any(text for name, text in groups.items() if name.endswith("_end"))
    if groups["final"]:
        return _Mark(*found.span(), "channel", True)
    if groups["turn_end"]:
        return _Mark(*found.span(), "turn", True)
    kind = next(k for k in _KINDS if groups[k] or groups.get(f"{k}_end"))
    name = groups[kind] or ""
    return _Mark(*found.span(), f"{kind} {name.lower()}" if kind == "tag" else kind, ends)


def _closing_kind(mark: _Mark, last_close: dict[str, int]) -> str:
    """The kind of mark that closes the thought that `mark` opens; "" if none does.

    Its own, or else the one that comes last: models mix "<think>" with "</thinking>".
    """
    kinds = ("channel", "turn") if mark.kind == "channel" else (mark.kind,)
    later = {kind: at for kind, at in last_close.items() if at > mark.start}
    own = [kind for kind in kinds if kind in later]
    others = [kind for kind in later if kind != "turn"]
    return (own or sorted(others, key=later.__getitem__)[-1:] or [""])[0]
