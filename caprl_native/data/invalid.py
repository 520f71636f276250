"""What is left out of a data set because it is wrong: what may be, how much, and the list of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from caprl_native.config.data import DataConfig
from caprl_native.data.fields import FieldError
from caprl_native.files import atomic_write

SHOWN = 20  # of what is wrong, in messages
NO_QUESTION_LEFT = "no question left"

Choice = Literal["error", "drop"]


def never(choice: str) -> bool:
    """No choice says that the question cannot be answered."""
    return False


@dataclass(frozen=True)
class Invalid:
    """What becomes of wrong questions and records (`[data] invalid_questions`, ...).

    `max_share`: of the questions, and of the records, as many may be left out at most.
    `no_answer`: whether a choice says that the question cannot be answered; if that is the right
    one, the question is wrong: it would reward an empty caption.
    """

    questions: Choice = "error"
    records: Choice = "error"
    max_share: float = 0.02
    no_answer: Callable[[str], bool] = never

    @classmethod
    def of(cls, config: DataConfig, no_answer: Callable[[str], bool] = never) -> Invalid:
        """What the config wishes."""
        return cls(
            config.invalid_questions, config.invalid_records, config.max_dropped_share, no_answer
        )

    def __bool__(self) -> bool:
        """Whether anything may be left out."""
        return "drop" in (self.questions, self.records)


class WrongQuestion(NamedTuple):
    """A question that is left out: its place in the record's list, and why."""

    number: int
    error: FieldError


@dataclass(frozen=True)
class Dropped:
    """A question, or a whole record where `question` is None, that was left out."""

    file: str
    unit: str  # "line", "row" or "record"
    row: int  # in the file, from 1
    question: int | None  # in the record's list, from 0
    reason: str  # what such faults are counted by
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.unit} {self.row}: {self.problem}"

    def entry(self) -> dict[str, Any]:
        """As the run's list has it."""
        return {
            "file": self.file,
            "row": self.row,
            "question": self.question,
            "reason": self.reason,
            "problem": self.problem,
        }


@dataclass
class DropReport:
    """All that was left out of some files, and how much there was."""

    items: list[Dropped] = field(default_factory=list)
    questions: int = 0  # of all records, those that were left out included
    records: int = 0

    @property
    def dropped_questions(self) -> int:
        return sum(item.question is not None for item in self.items)

    @property
    def dropped_records(self) -> int:
        return sum(item.question is None for item in self.items)

    @property
    def reasons(self) -> dict[str, int]:
        """How many of each reason, "questions: one choice" or "records: no media"."""
        kinds = ("records" if d.question is None else "questions" for d in self.items)
        found = Counter(f"{k}: {d.reason}" for k, d in zip(kinds, self.items, strict=True))
        return dict(sorted(found.items()))

    def excess(self, max_share: float) -> str:
        """What is wrong if more than this share was left out; empty if not."""
        for kind, dropped, total in (
            ("questions", self.dropped_questions, self.questions),
            ("records", self.dropped_records, self.records),
        ):
            if dropped > max_share * total:
                return (
                    f"{dropped} of {total} {kind} are invalid, more than the share of "
                    f"{max_share:g} that data.max_dropped_share allows\n{self.listing()}"
                )
        return ""

    def summary(self) -> str:
        """One line: how many were left out, and why."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return (
            f"left out {self.dropped_questions} of {self.questions} questions and "
            f"{self.dropped_records} of {self.records} records ({counts})"
        )

    def listing(self) -> str:
        """The counts by reason, and the first `SHOWN` with file and row."""
        counts = [f"{count} x {reason}" for reason, count in self.reasons.items()]
        return "\n".join([*counts, *listed([str(item) for item in self.items], len(self.items))])


def listed(texts: Sequence[str], total: int) -> list[str]:
    """The first `SHOWN` of so many lines, and how many more there are."""
    rest = [f"... and {total - SHOWN} more"] if total > SHOWN else []
    return [*texts[:SHOWN], *rest]


def write_dropped(file: Path, reports: Iterable[DropReport]) -> None:
    """Writes a JSON line for all that was left out; removes an earlier list where nothing was."""
    items = [item for report in reports for item in report.items]
    if not items:
        file.unlink(missing_ok=True)
        return
    with atomic_write(file) as opened:
        for item in items:
            opened.write(json.dumps(item.entry(), ensure_ascii=False) + "\n")
