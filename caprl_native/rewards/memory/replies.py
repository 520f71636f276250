"""What the judges of memories say: a number, or a ranking."""

from __future__ import annotations

import json
import re

from caprl_native.messages import shown
from caprl_native.rewards.judges.reply import Unreadable
from caprl_native.text.thoughts import CUT_OFF, said

RANK_START, RANK_END = "[RANK START]", "[RANK END]"
_BETWEEN = re.compile(rf"{re.escape(RANK_START)}(.*?){re.escape(RANK_END)}", re.DOTALL)


def read_ranking(output: str, count: int) -> list[int]:
    """The order of entries 0 to count - 1, the most useful first, from numbers 1 to count.

    Raises:
        Unreadable: the last list between the marks is no permutation of those numbers.
    """
    text, cut_off = said(output)
    found = _BETWEEN.findall(text)
    if not found:
        raise Unreadable(CUT_OFF if cut_off else f"no list between {RANK_START} and {RANK_END}")
    try:
        listed = json.loads(found[-1])
    except (ValueError, RecursionError):
        listed = None
    numbers = listed if isinstance(listed, list) else []
    if any(type(n) is not int for n in numbers) or sorted(numbers) != list(range(1, count + 1)):
        raise Unreadable(f"{shown(found[-1].strip(), 80)} is not each of 1 to {count} once")
    return [n - 1 for n in numbers]
