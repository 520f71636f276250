"""What the report says: counts of a curation, gathered line by line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from caprl_native.curation.extraction.checks import stamps
from caprl_native.curation.rule import GUESSED, KEPT, LONG, MISSING, Shares
from caprl_native.data.choices import LETTERS

_ORDER = re.compile(
    r"\b(?:before|after|first|then|last|next|when|while|during|order|sequence|how long|until|begin"
    r"\w*|end\w*|start\w*|times)\b"
    r"|[\u524d\u540e\u5148]|\u987a\u5e8f|\u4f55\u65f6|\u4ec0\u4e48\u65f6\u5019|\u591a\u4e45|\u6b21\u5e8f",
    re.IGNORECASE,
)


@dataclass
class Tally:
    """Counts; `examples` by reason: an id, its first medium, and the question's text."""

    most_examples: int = 5
    inputs: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    generated: int = 0
    written: int = 0
    extracted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    of_videos: int = 0
    ordered: int = 0  # of these, questions on order or time
    verdicts: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)  # right rounds: media, text
    rounds: int = 0
    letters_before: Counter[str] = field(default_factory=Counter)
    letters_after: Counter[str] = field(default_factory=Counter)
    per_row: Counter[int] = field(default_factory=Counter)
    rows: int = 0
    too_few: int = 0
    unreadable: int = 0
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def extraction(self, line: dict[str, Any]) -> None:
        """A line of questions.jsonl."""
        self.generated += 1
        self.extracted += len(line["questions"])
        self.written += len(line["questions"]) + len(line["rejected"])
        is_video = any(m["kind"] == "video" for m in line["media"])
        for q in line["questions"]:
            self.letters_before[LETTERS[q["answer"]]] += 1
            self.of_videos += is_video
            self.ordered += is_video and bool(_ORDER.search(q["question"]) or stamps(q["question"]))
        for wrong in line["rejected"]:
            self.rejected[wrong["reason"]] += 1
            self.example(wrong["reason"], line, wrong["text"])

    def example(self, reason: str, line: dict[str, Any], text: str) -> None:
        its = self.examples.setdefault(reason, [])
        if len(its) < self.most_examples:
            its.append({"id": line["id"], "media": line["media"][:1], "text": text})

    def judged(self, verdict: str, found: Sequence[Shares | None]) -> None:
        """A question's verdict; the first solver's answers are those of the table."""
        self.verdicts[verdict] += 1
        if found and found[0] is not None:
            media, text = found[0]["media"], found[0]["text"]
            self.rounds = max(self.rounds, media.rounds)
            self.pairs[media.right, text.right] += 1

    def kept(self, questions: Sequence[dict[str, Any]]) -> None:
        """A row of the output."""
        self.rows += 1
        self.per_row[len(questions)] += 1
        self.letters_after.update(q["answer"][0] for q in questions)

    def steps(self) -> list[tuple[str, int]]:
        """The yield, step by step."""
        seen = self.verdicts[KEPT] + self.verdicts[GUESSED]
        return [
            ("inputs", self.inputs),
            ("inputs with a writer's output", self.generated),
            ("questions written", self.written),
            ("questions that can be asked", self.extracted),
            ("answered in all rounds", self.answered),
            ("answered with the media", seen),
            ("and not without: kept", self.verdicts[KEPT]),
            ("questions in the output", sum(k * n for k, n in self.per_row.items())),
            ("rows in the output", self.rows),
        ]

    @property
    def answered(self) -> int:
        """Questions whose rounds all have an answer, and that are not too long."""
        return sum(self.verdicts.values()) - self.verdicts[MISSING] - self.verdicts[LONG]

    def histogram(self, place: int) -> list[int]:
        """Questions by right rounds, with the media (0) or without (1)."""
        return [
            sum(n for pair, n in self.pairs.items() if pair[place] == right)
            for right in range(self.rounds + 1)
        ]

    def figures(self) -> dict[str, Any]:
        """All counts, as report.json has them."""
        size = range(self.rounds + 1)
        return {
            "steps": dict(self.steps()),
            "failed_inputs": dict(self.failed.most_common()),
            "rejected": dict(self.rejected.most_common()),
            "verdicts": dict(self.verdicts.most_common()),
            "rounds": self.rounds,
            "right_with_media_by_right_without": [[self.pairs[v, t] for t in size] for v in size],
            "visual_accuracy": self.histogram(0),
            "text_accuracy": self.histogram(1),
            "letters_as_written": dict(sorted(self.letters_before.items())),
            "letters_in_the_output": dict(sorted(self.letters_after.items())),
            "questions_per_row": {str(k): n for k, n in sorted(self.per_row.items())},
            "inputs_with_too_few_questions": self.too_few,
            "files_gone_before_the_output": self.unreadable,
            "video_questions": self.of_videos,
            "video_questions_on_order_or_time": self.ordered,
        }
