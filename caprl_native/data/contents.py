"""Fingerprints of what records hold: a run goes on over the same data or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caprl_native.types import MediaRef, Question, Sample


class Contents:
    """Fingerprints of what records hold, by kind, so that a message can name what changed."""

    def __init__(self) -> None:
        self._digests = {
            kind: hashlib.blake2b(digest_size=16)
            for kind in ("prompts", "questions", "responses", "media files")
        }

    def add(self, sample: Sample) -> None:
        """Takes a record in; of its media files the names within the folder, and the sizes."""
        carried = sample.carried  # its messages have places for what it brings
        parts = {
            "prompts": sample.messages if carried is None else (sample.messages, carried),
            "questions": _as_weighted(sample.questions),
            "responses": sample.response,
            "media files": [
                (m.kind, Path(m.name).name, m.start, m.end, m.fps, _size(m)) for m in sample.media
            ],
        }
        for kind, value in parts.items():
            self._digests[kind].update(repr(value).encode("utf-8", "surrogatepass") + b"\0")

    def add_file(self, size: int) -> None:
        """Takes in the size of a file that may hold media itself; a check does not read these."""
        self._digests["media files"].update(f"{size}\0".encode())

    def fingerprints(self) -> dict[str, str]:
        """Hexadecimal digests by kind."""
        return {kind: digest.hexdigest() for kind, digest in self._digests.items()}


def _as_weighted(questions: Sequence[Question]) -> Any:
    """Questions and, where they differ, their weights, which are no part of a question's text."""
    weights = [question.weight for question in questions]
    return questions if set(weights) <= {1.0} else (questions, weights)


def _size(medium: MediaRef) -> int:
    """Bytes of a medium's file; -1 where there is none, or it is in the record itself."""
    try:
        return os.stat(medium.path).st_size if medium.path else -1
    except OSError:
        return -1
