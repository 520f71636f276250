"""Rules that score captions in the tests of the reward service, named by their import paths."""

from __future__ import annotations

import time


def words(caption):
    """A share that tells captions apart: "w17 ..." is worth 0.17. "none" has no score."""
    first = caption.text.split()[0] if caption.text.split() else ""
    if first == "none":
        return None
    if first == "slow":
        time.sleep(1.0)
    return int(first[1:]) / 100 if first[1:].isdigit() else 0.5


def size(caption):
    """A judge of files: what it scores is the caption's first medium."""
    with open(caption.sample.media[0].path, "rb") as file:
        return len(file.read()) / 100
