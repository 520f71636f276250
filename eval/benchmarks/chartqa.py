"""ChartQA."""

from __future__ import annotations

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import registered
from eval.benchmarks.released import Released, golds_of
from eval.items import Item, Verdict
from eval.scoring.caprl_image import image_score
from eval.scoring.math_answer import final_answer, final_forms
from eval.scoring.relaxed import relaxed_accuracy


@registered
class ChartQA(Released):
    """Questions about charts that people drew, with a short text or a number as answer.

    Source: `lmm_eval_chartqa.json` of the released files. A field `type` (human or augmented), if
    there is one, breaks scores down.
    Rule: relaxed accuracy: a number within 5% of the gold, any other text equal but for case.
    Citation: A. Masry, D. X. Long, J. Q. Tan, S. Joty, E. Hoque, "ChartQA: A Benchmark for Question
    Answering about Charts with Visual and Logical Reasoning", Findings of ACL 2022.
    """

    name = "chartqa"
    title = "ChartQA"
    metric = "relaxed accuracy"
    golds = "text"
    group_fields = {"type": ("type", "split")}
    own = Columns(
        question=("query", "question"),
        answer=("label", "answer"),
        images=("imgname", "image"),
        folders=("png", "test/png", "images", ""),
    )
    reference_score = staticmethod(image_score)

    def official(self, item: Item, output: str) -> Verdict:
        right = any(relaxed_accuracy(said, golds_of(item)) for said in final_forms(output))
        return Verdict(float(right), final_answer(output))
