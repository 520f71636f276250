"""AutoDQ, the rule of DREAM-1K: events of a caption and of a reference, and which entail which.

The rule of bytedance/tarsier (evaluation/metrics/evaluate_dream_gpt.py), with one exception: there
a caption without any event has a precision of 1, here of 0.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from eval.scoring.stated import number_in, stated_object

EVENTS, RELATION = "events", "relationship"
ENTAILED = "entailment"
RELATIONS = (ENTAILED, "neutral", "contradiction")


def read_events(reply: str) -> list[str] | None:
    """The events that a reply lists, `{"events": [text, ...]}`; None where it is no such list."""
    listed = (stated_object(reply, EVENTS) or {}).get(EVENTS)
    if not isinstance(listed, list):
        return None
    events = [event.strip() for event in listed if isinstance(event, str) and event.strip()]
    return events if len(events) == len(listed) else None


def read_relations(reply: str, count: int) -> list[str] | None:
    """How `count` events relate to a text, in their order; None unless a reply says it of each.

    `{"events": [{"number": 1, "relationship": "entailment"}, ...]}`; where none has a number they
    are in order.
    """
    listed = (stated_object(reply, EVENTS) or {}).get(EVENTS)
    if not isinstance(listed, list) or len(listed) != count:
        return None
    found: dict[float, str] = {}
    numbered = any(isinstance(entry, dict) and "number" in entry for entry in listed)
    for place, entry in enumerate(listed, 1):
        if not isinstance(entry, dict):
            return None
        number = number_in(entry.get("number")) if numbered else place
        relation = str(entry.get(RELATION)).strip().casefold()
        if number is None or relation not in RELATIONS:
            return None
        found[number] = relation
    return (
        [found[i] for i in range(1, count + 1)] if set(found) == set(range(1, count + 1)) else None
    )


def entailed(relations: Sequence[str]) -> float:
    """The share of events that are entailed; 0 where there are none."""
    return relations.count(ENTAILED) / len(relations) if relations else 0.0


def f1_of(recall: float, precision: float) -> float:
    """Their harmonic mean; 0 where both are."""
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def autodq(parts: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """Recall, precision and F1, of (source, recall, precision) of each video; shares.

    Each source of videos weighs the same; F1 is of mean recall and mean precision, for all sources
    and for each.
    """
    by_source: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for source, recall, precision in parts:
        by_source[source].append((recall, precision))
    means = {
        source: (statistics.fmean(r for r, _ in found), statistics.fmean(p for _, p in found))
        for source, found in sorted(by_source.items())
    }
    if not means:
        return {}
    recall = statistics.fmean(r for r, _ in means.values())
    precision = statistics.fmean(p for _, p in means.values())
    overall = {"F1": f1_of(recall, precision), "recall": recall, "precision": precision}
    return overall | {f"F1 {source}": f1_of(*pair) for source, pair in means.items()}
