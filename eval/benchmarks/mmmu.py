"""MMMU."""

from __future__ import annotations

import re

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import Row, registered
from eval.benchmarks.released import MathBenchmark

DISCIPLINES = {
    "Art & Design": "Art, Art Theory, Design, Music",
    "Business": "Accounting, Economics, Finance, Manage, Marketing",
    "Science": "Biology, Chemistry, Geography, Math, Physics",
    "Health & Medicine": "Basic Medical Science, Clinical Medicine, Pharmacy, Public Health, "
    "Diagnostics and Laboratory Medicine",
    "Humanities & Social Science": "History, Literature, Psychology, Sociology",
    "Tech & Engineering": "Agriculture, Architecture and Engineering, Computer Science, "
    "Electronics, Energy and Power, Materials, Mechanical Engineering",
}
_DISCIPLINE_OF = {
    subject: discipline
    for discipline, subjects in DISCIPLINES.items()
    for subject in subjects.split(", ")
}


@registered
class MMMU(MathBenchmark):
    """College-level questions from 30 subjects in six disciplines.

    Source: `lmm_eval_mmmu.json` of the released files: multiple choice with a gold letter, and open
    questions, whose gold may be a list of right answers. A field `subject`, or an id such as
    "validation_Accounting_7", gives subject and discipline; `topic_difficulty` breaks scores down,
    too, if it is there.
    Rule: accuracy, by letter where there are choices. An open answer is right if it has a gold's
    value or is its text but for case, articles and punctuation. Nothing is drawn at random where
    no answer can be read, as the official parser does.
    Citation: X. Yue, Y. Ni, K. Zhang, T. Zheng et al., "MMMU: A Massive Multi-discipline Multimodal
    Understanding and Reasoning Benchmark for Expert AGI", CVPR 2024.
    """

    name = "mmmu"
    title = "MMMU"
    group_fields = {
        "subject": ("subject", "subfield"),
        "difficulty": ("topic_difficulty",),
    }
    own = Columns(
        images=("image", *(f"image_{number}" for number in range(1, 8))),
        several=True,
        choices=("options",),
    )

    def groups(self, row: Row, letter: str | None) -> dict[str, str]:
        return with_discipline(super().groups(row, letter), row)


def with_discipline(groups: dict[str, str], row: Row) -> dict[str, str]:
    """The groups with the subject that the record or its id names, and the subject's discipline."""
    match = re.fullmatch(r"[a-z]+_(.+)_\d+", row.text("id", default=""))
    subject = groups.get("subject") or (match[1] if match else "")
    subject = subject.replace("_", " ").strip()
    found = {"subject": subject, "discipline": _DISCIPLINE_OF.get(subject, "")}
    return groups | {kind: value for kind, value in found.items() if value}
