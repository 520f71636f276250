"""What was known of a video before the segment that a rollout describes."""

from __future__ import annotations

import logging

from caprl_native.types import Sample

log = logging.getLogger(__name__)

MARKER = "[Description of the preceding part]:"
_warned: set[str] = set()


def preceding_text(sample: Sample) -> str:
    """What the loader put into the prompt (`Sample.context`).

    Of data without it: in the prompt's last text, what stands between the marker and the blank line
    before the rules; "" where there is no marker, and a warning.
    """
    if sample.context is not None:
        return sample.context
    texts = [p["text"] for m in sample.messages for p in m["content"] if p["type"] == "text"]
    _, marker, after = texts[-1].partition(MARKER) if texts else ("", "", "")
    if not marker:
        _warn(sample)
    return after.strip("\n").partition("\n\n")[0].strip()


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
