"""What is attacked: real captions of real samples, and what an attacker knows beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import MediaError, decode, longest
from caprl_native.data.records import Records
from caprl_native.types import Modality, Question, Sample

_STAMP = re.compile(r"\[[0-9:\s-]*\]\s*")
_CLAUSE_END = re.compile(r"[,;.!?]+(?:\s+|$)|[，；。！？]|\n+")


@dataclass(frozen=True)
class Subject:
    """A caption that a policy wrote of a sample, as it wrote it."""

    sample: Sample
    caption: str

    @property
    def unstamped(self) -> str:
        """The caption without its time stamps."""
        return _STAMP.sub("", self.caption)

    @property
    def clauses(self) -> list[str]:
        """What the caption says, piece by piece, without time stamps."""
        return [c.strip() for c in _CLAUSE_END.split(self.unstamped) if c.strip()]

    @property
    def halves(self) -> tuple[list[str], list[str]]:
        """Its clauses, those of the first half and the others."""
        middle = (len(self.clauses) + 1) // 2
        return self.clauses[:middle], self.clauses[middle:]

    @property
    def end(self) -> int:
        """Seconds of its video, rounded up; 0 for an image."""
        return -int(-(self.sample.seconds or 0) // 1)


@dataclass(frozen=True)
class Knowledge:
    """What a policy can learn of the data over a run: how captions speak, what is asked."""

    subjects: Sequence[Subject]

    def other(self, subject: Subject) -> Subject:
        """The next subject of the same modality, round in a circle."""
        alike = self.alike(subject.sample.modality)
        return alike[(alike.index(subject) + 1) % len(alike)]

    def alike(self, modality: Modality) -> list[Subject]:
        """All subjects of a modality, in order."""
        return [s for s in self.subjects if s.sample.modality == modality]

    def clauses(self, modality: Modality) -> list[str]:
        """Everything that any caption says, each once."""
        return list(dict.fromkeys(c for s in self.alike(modality) for c in s.clauses))

    def topics(self, modality: Modality) -> dict[str, list[str]]:
        """Everything that is asked, with all choices that were ever offered for it."""
        found: dict[str, dict[str, None]] = {}
        for question in self._questions(modality):
            found.setdefault(question.question, {}).update(dict.fromkeys(question.choices))
        return {text: list(choices) for text, choices in found.items()}

    def _questions(self, modality: Modality) -> list[Question]:
        return [q for s in self.alike(modality) for q in s.sample.questions]


def read_subjects(
    records: Records, captions: Path, media: MediaConfig, limit: int
) -> list[Subject]:
    """The first `limit` captions of a file, one for each sample; their videos are decoded.

    The file has lines with `id` and `caption`, as a run's `rollouts/` and `eval/` have. Raises
    ValueError for a line without them, and where no caption is of a record.
    """
    texts: dict[str, str] = {}
    for number, line in enumerate(captions.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            texts.setdefault(str(row["id"]), str(row["caption"]))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'{captions}:{number}: expected {{"id": ..., "caption": ...}}'
            ) from None
    subjects: list[Subject] = []
    for index in range(len(records)):
        sample = records[index]
        if len(subjects) < limit and texts.get(sample.id, "").strip():
            subjects += _decoded(sample, texts[sample.id], media)
    if not subjects:
        raise ValueError(f"{captions}: no caption is of a record in data.files")
    return subjects


def _decoded(sample: Sample, caption: str, media: MediaConfig) -> list[Subject]:
    """The subject; none where a medium cannot be decoded."""
    if sample.modality == "video":
        try:
            sample = replace(sample, seconds=longest(decode(sample, media)))
        except MediaError:
            return []
    return [Subject(sample, caption)]
