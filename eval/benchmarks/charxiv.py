"""CharXiv."""

from __future__ import annotations

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import Row, registered
from eval.benchmarks.judging import same_answer, yes_or_no
from eval.benchmarks.released import Released, golds_of
from eval.items import Item, ToJudge, Verdict
from eval.scoring.caprl_image import image_score
from eval.scoring.math_answer import final_answer, math_equal
from eval.scoring.numerals import numeral

ANSWERS = {  # by `inst_category`
    "1": "text in chart",
    "2": "text in general",
    "3": "number in chart",
    "4": "number in general",
}


@registered
class CharXiv(Released):
    """Questions about charts from scientific papers.

    Source: `lmm_eval_CharXiv.json` of the released files. Fields `category` (the paper's subject)
    and `inst_category` (what an answer is: text or number, in the chart or not), if they are
    there, break scores down.
    Rule: a judge decides whether the answer means the gold, as in the official evaluation, whose
    judge is GPT-4o; a number that is answered with a number needs none, since its rubric asks for
    the same value.
    Citation: Z. Wang, M. Xia, L. He, H. Chen, Y. Liu, R. Zhu, K. Liang, X. Wu, H. Liu, S. Malladi,
    A. Chevalier, S. Arora, D. Chen, "CharXiv: Charting Gaps in Realistic Chart Understanding in
    Multimodal LLMs", NeurIPS 2024.
    """

    name = "charxiv"
    title = "CharXiv"
    golds = "text"
    listed_golds = False  # "[0, 1]" is an answer of its own
    judged_by_model = True
    own = Columns(
        question=("reasoning_q", "query"),
        answer=("reasoning_a", "answer"),
        images=("image", "figure_path", "figure_id"),
        suffix=".jpg",
    )
    group_fields = {"category": ("category",)}
    reference_score = staticmethod(image_score)

    def groups(self, row: Row, letter: str | None) -> dict[str, str]:
        kind = ANSWERS.get(row.text("inst_category", "reasoning_a_type", default=""))
        return super().groups(row, letter) | ({"answer": kind} if kind else {})

    def official(self, item: Item, output: str) -> Verdict | ToJudge:
        said, gold = final_answer(output), " or ".join(golds_of(item))
        if numeral(said) and numeral(gold):
            return Verdict(float(math_equal(said, gold)), said)
        return same_answer(item.question, gold, output)

    def judged(self, item: Item, output: str, reply: str) -> Verdict | None:
        return yes_or_no(reply)
