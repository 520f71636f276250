"""MMMU-Pro."""

from __future__ import annotations

from eval.benchmarks.base import Row, registered
from eval.benchmarks.mmmu import MMMU, with_discipline
from eval.benchmarks.released import MathBenchmark


@registered
class MMMUPro(MathBenchmark):
    """MMMU's questions that need the image, with up to ten choices.

    Source: `lmm_eval_MMMU_Pro.json` of the released files: lettered choices and a gold letter; an
    open question is scored as in MMMU. A field `subject`, or the id, gives subject and discipline;
    `topic_difficulty` breaks scores down, too, if it is there.
    Rule: accuracy by letter; nothing is drawn at random where none can be read.
    Citation: X. Yue, T. Zheng, Y. Ni, Y. Wang et al., "MMMU-Pro: A More Robust Multi-discipline
    Multimodal Understanding Benchmark", ACL 2025.
    """

    name = "mmmu_pro"
    title = "MMMU-Pro"
    group_fields = {
        "subject": ("subject",),
        "difficulty": ("topic_difficulty",),
    }
    own = MMMU.own

    def groups(self, row: Row, letter: str | None) -> dict[str, str]:
        return with_discipline(super().groups(row, letter), row)
