"""MMStar."""

from __future__ import annotations

from eval.benchmarks.base import registered
from eval.benchmarks.released import LetterBenchmark


@registered
class MMStar(LetterBenchmark):
    """1,500 questions that cannot be answered without the image, in six areas of ability.

    Source: `lmm_eval_MMStar.json` of the released files: four choices, a gold letter. Fields
    `category` and `l2_category`, if they are there, break scores down.
    Rule: accuracy by letter.
    Citation: L. Chen, J. Li, X. Dong, P. Zhang, Y. Zang, Z. Chen, H. Duan, J. Wang, Y. Qiao,
    D. Lin, F. Zhao, "Are We on the Right Way for Evaluating Large Vision-Language Models?", NeurIPS
    2024.
    """

    name = "mmstar"
    title = "MMStar"
    group_fields = {"category": ("category",), "subcategory": ("l2_category",)}
