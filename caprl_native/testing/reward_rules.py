"""A rule that scores captions which tell their own worth: for tests of what is around a reward."""

from __future__ import annotations

import time
from typing import Any


def told(caption: Any, work_s: float = 0.0) -> float:
    """ "caption 1234 ..." is worth 0.234; takes `work_s` seconds for it."""
    time.sleep(work_s)
    return int(caption.text.split()[1]) % 1000 / 1000
