"""MathVerse."""

from __future__ import annotations

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import Row, registered
from eval.benchmarks.released import MathBenchmark


@registered
class MathVerse(MathBenchmark):
    """Geometry and functions, with what is known split between text and diagram.

    Source: `lmm_eval_MathVerse_MINIVInt.json` of the released files, the vision-intensive version:
    multiple choice with a gold letter, and free-form questions. Fields `problem_version`, `subject`
    and `subfield`, if they are there, break scores down.
    Rule: accuracy, by letter where there are choices, else by equality of value. The official
    evaluation extracts and compares answers with GPT-4; equality is checked by computation here.
    Citation: R. Zhang, D. Jiang, Y. Zhang, H. Lin, Z. Guo, P. Qiu, A. Zhou, P. Lu, K.-W. Chang,
    P. Gao, H. Li, "MathVerse: Does Your Multi-modal LLM Truly See the Diagrams in Visual Math
    Problems?", ECCV 2024.
    """

    name = "mathverse"
    title = "MathVerse"
    group_fields = {
        "version": ("problem_version",),
        "subject": ("subject",),
        "subfield": ("subfield",),
    }
    own = Columns(question=("question", "question_for_eval"))

    def groups(self, row: Row, letter: str | None) -> dict[str, str]:
        """Subject and subfield stand in `metadata` in the authors' files."""
        metadata = row.value.get("metadata")
        if isinstance(metadata, dict):
            row = Row({**metadata, **row.value}, row.source, row.file)
        return super().groups(row, letter)
