"""CAPability: whether a caption has an annotated element right (1), wrong (-1), or not at all (0).

The rule of ali-vilab/CAPability (evaluation/eval.py), with one exception: of a dimension that no
caption speaks of, precision and F1 are 0, where it divides by zero.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from eval.scoring.stated import number_in, plain_reply, stated_object

RIGHT, ABSENT, WRONG = 1, 0, -1
_NONE = ("n/a", "none", "na")


def read_verdict(reply: str) -> int | None:
    """The verdict in a reply, `{"verdict": -1}`, or the number alone; None where there is none."""
    stated = stated_object(reply, "verdict")
    number = number_in(stated["verdict"] if stated else plain_reply(reply))
    return int(number) if number in (RIGHT, ABSENT, WRONG) else None


def read_categories(reply: str, known: Collection[str]) -> list[str] | None:
    """The categories in a reply, `{"categories": [name, ...]}`; none is an empty list.

    None where there is no such list, or one with a category that is not of the `known`.
    """
    stated = stated_object(reply, "categories")
    if stated is None:
        return None
    value = stated["categories"]
    names = value if isinstance(value, list) else [value]
    if any(not isinstance(name, str) for name in names):
        return None
    found = [name.strip().casefold() for name in names]
    if len(found) == 1 and found[0] in _NONE:
        return []
    return list(dict.fromkeys(found)) if set(found) <= set(known) else None


def categorical(gold: str, categories: Sequence[str]) -> int:
    """The verdict on a caption that names these categories."""
    if not categories:
        return ABSENT
    return RIGHT if gold in categories else WRONG


def capability_metrics(verdicts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Precision, hit rate, recall and F1, of (dimension, verdict) of each element; shares.

    Hit: the share of elements that are spoken of. Precision: of these, those that are right.
    Recall: right ones among all. The overall figures are means over dimensions.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for dimension, verdict in verdicts:
        found[dimension].append(verdict)
    tables = {dimension: _figures(of) for dimension, of in sorted(found.items())}
    if not tables:
        return {}
    names = next(iter(tables.values()))
    overall = {name: statistics.fmean(t[name] for t in tables.values()) for name in names}
    return overall | {
        f"{name} {dimension}": table[name]
        for dimension, table in tables.items()
        for name in ("precision", "hit")
    }


def _figures(verdicts: Sequence[int]) -> dict[str, float]:
    right = verdicts.count(RIGHT)
    spoken_of = len(verdicts) - verdicts.count(ABSENT)
    precision = right / spoken_of if spoken_of else 0.0
    recall = right / len(verdicts)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {
        "precision": precision,
        "hit": spoken_of / len(verdicts),
        "recall": recall,
        "F1": f1,
    }
