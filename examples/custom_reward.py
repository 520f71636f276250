"""A reward of one's own as a plain function: captions that name colours are worth more.

Without a change to the package; in the config of a run:

    [reward.terms.colours]
    type = "custom"
    import_path = "examples/custom_reward.py:colours"
    weight = 0.2
    timeout_s = 5.0         # seconds for one caption; then its reward is missing, never zero
    options = {enough = 3}  # keyword arguments of the function

It is then a part of the total, of the metrics (`reward/colours/mean`) and of the rollout log. The
function may be `async`, e.g. to ask a server; it may return a `Score` to explain itself in the
rollout log, or None where it has no value. What holds something (a model, a connection) is better a
class: it is made once, with `options=...`, and called like the function.
"""

from __future__ import annotations

import re

from caprl_native.rewards.base import Caption

COLOURS = {"black", "white", "grey", "red", "green", "blue", "yellow", "orange", "purple", "brown"}


def colours(caption: Caption, enough: int = 3) -> float:
    """How many different colours the caption names, as a share of `enough`; 1 at most."""
    words = set(re.findall(r"[a-z]+", caption.text.lower()))
    return min(1.0, len(COLOURS & words) / enough)
