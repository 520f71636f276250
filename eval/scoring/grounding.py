"""Temporal grounding: time spans in text, their overlap, recall and mean IoU (TimeLens's rule).

The rule of TencentARC/TimeLens (timelens/utils.py, evaluation/compute_metrics.py). As in lmms-eval,
two spans without any extent overlap by 0, where TimeLens divides by zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from caprl_native.text.plain_text import bounded

Span = tuple[float, float]

THRESHOLDS = (0.3, 0.5, 0.7)

_CLOCK = re.compile(r"\b(?:(\d{1,2}):(?=\d\d:))?(\d{1,2}):(\d{2}(?:\.\d+)?)\b")
# A number is taken whole or not at all (possessively), and none begins within another: tried from
# every digit, a thousand digits would take cubic time.
_TIME = r"(?<!\d)(\d++(?:\.\d*+)?)"
_RANGES = (re.compile(rf"{_TIME}\s*+-\s*+{_TIME}"), re.compile(rf"{_TIME}\s++to\s++{_TIME}"))
_NUMBER = re.compile(r"\b(?:\d+\.\d+|\d+)\b")
MAX_CHARS = 20_000  # of a reply that are read


def parse_spans(text: str) -> list[Span]:
    """The (start, end) spans in `text`, in seconds and in order of appearance.

    The first of these that finds anything: clock times (h:mm:ss or mm:ss) in pairs; "a - b";
    "a to b"; plain numbers in pairs. A last one without partner is dropped. Spans may run
    backwards. The rule's limits: "12.5s - 20.3s" reads as 12 to 20 and "12s to 20s" as nothing,
    minus signs are not seen, and numbers that belong to something else are taken as times. Of a
    text beyond `MAX_CHARS` its beginning and its end are read.
    """
    text = bounded(text, MAX_CHARS).lower()
    clocks = [_seconds(*found) for found in _CLOCK.findall(text)]
    if len(clocks) > 1:
        return _pairs(clocks)
    for pattern in _RANGES:
        if found := pattern.findall(text):
            return [(float(start), float(end)) for start, end in found]
    return _pairs([float(number) for number in _NUMBER.findall(text)])


def span_iou(first: Span, second: Span) -> float:
    """Intersection over the hull of both spans, 0..1; 0 if the hull has no extent.

    The hull is the union where the spans overlap, and where they do not the value is 0 anyway. A
    span that runs backwards overlaps with nothing, and one without end ("9" four hundred times) is
    none.
    """
    if not all(map(math.isfinite, (*first, *second))):
        return 0.0
    hull = max(first[1], second[1]) - min(first[0], second[0])
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return max(shared, 0.0) / hull if hull > 0 else 0.0


def grounding_iou(prediction: str, answer: Span) -> float:
    """IoU of the first span in `prediction` with `answer` (seconds); 0 without a span."""
    spans = parse_spans(prediction)
    return span_iou(spans[0], answer) if spans else 0.0


def grounding_metrics(ious: Sequence[float]) -> dict[str, float]:
    """Percent of items with an IoU of at least 0.3, 0.5, 0.7 (R1@...), and the mean IoU times 100.

    Raises ValueError when there are no items.
    """
    if not ious:
        raise ValueError("no item to average")
    recalls = {f"R1@{at}": 100 * sum(iou >= at for iou in ious) / len(ious) for at in THRESHOLDS}
    return recalls | {"mIoU": 100 * sum(ious) / len(ious)}


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)


def _pairs(times: list[float]) -> list[Span]:
    return list(zip(times[::2], times[1::2], strict=False))
