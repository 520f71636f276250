"""What is seen in a caption without knowing what it is about."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words and marks; of scripts without spaces, characters.
_PIECES = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|\w+|[^\w\s]", re.UNICODE
)
LONGEST = 100  # pieces of what is repeated
TIMES = 3  # so often, and
LEAST = 50  # so many pieces in all
_TAIL = (TIMES + 1) * LONGEST


def is_degenerate(caption: str) -> bool:
    """Whether the caption's end repeats itself: at least three times what is up to 100 words long,
    and at least 50 words in all. Sampling that has come into a loop looks like this."""
    pieces = _PIECES.findall(caption[-20 * _TAIL :])[-_TAIL:]
    return any(_repeats(pieces, period) for period in range(1, LONGEST + 1))


def _repeats(pieces: Sequence[str], period: int) -> bool:
    """Whether the last pieces repeat those `period` before them, far enough."""
    wanted = max(TIMES * period, LEAST)
    if len(pieces) < wanted:
        return False
    tail = pieces[-wanted:]
    return all(a == b for a, b in zip(tail, tail[period:], strict=False))
