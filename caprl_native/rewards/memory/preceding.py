"""What was known of a video before the segment that a rollout describes."""

from __future__ import annotations

import logging

from caprl_native.data.record_formats.memory import MARKER, preceding
from caprl_native.types import Sample

log = logging.getLogger(__name__)

_warned: set[str] = set()


def preceding_text(sample: Sample) -> str:
    """What the loader put into the prompt (`Sample.context`).

    Of record formats that do not say: what the prompt's last text has after the marker; "" where
    there is none, and a warning.
    """
    if sample.context is not None:
        return sample.context
    texts = [p["text"] for m in sample.messages for p in m["content"] if p["type"] == "text"]
    found = preceding(texts[-1]) if texts else None
    if found is None:
        _warn(sample)
    return found or ""


def _warn(sample: Sample) -> None:
    file = sample.source.rpartition(":")[0] or sample.source
    if file not in _warned:
        _warned.add(file)
        log.warning(
            "%s (sample %s): no %s in the prompt; judges are told that nothing came before",
            sample.source,
            sample.id,
            MARKER,
        )
