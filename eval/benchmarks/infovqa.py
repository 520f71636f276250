"""InfographicVQA."""

from __future__ import annotations

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import Row, registered
from eval.benchmarks.released import Released, golds_of
from eval.items import Item, Verdict
from eval.scoring.anls import anls
from eval.scoring.caprl_image import image_score_anls
from eval.scoring.math_answer import final_answer, final_forms


@registered
class InfoVQA(Released):
    """Questions about infographics; several spellings of an answer may be right.

    Source: `lmm_eval_infovqa.json` of the released files. A field `answer_type`, if there is one,
    breaks scores down.
    Rule: ANLS, the similarity to the nearest gold by edit distance, 0 from 0.5 down.
    Citation: M. Mathew, V. Bagal, R. Tito, D. Karatzas, E. Valveny, C. V. Jawahar,
    "InfographicVQA", WACV 2022.
    """

    name = "infovqa"
    title = "InfographicVQA"
    metric = "ANLS"
    golds = "text"
    own = Columns(
        answer=("answers", "answer"),
        images=("image", "image_local_name"),
        nested=("data",),
        folders=("", "images", "infographicsvqa_images"),
    )
    group_fields = {"answer type": ("answer_type",)}

    def groups(self, row: Row, letter: str | None) -> dict[str, str]:
        """The kinds of an answer are a list in the authors' files."""
        kinds = row.value.get("answer_type")
        if not isinstance(kinds, list):
            return super().groups(row, letter)
        return {"answer type": ", ".join(map(str, kinds))} if kinds else {}

    reference_score = staticmethod(image_score_anls)

    def official(self, item: Item, output: str) -> Verdict:
        score = max(anls(said, golds_of(item)) for said in final_forms(output))
        return Verdict(score, final_answer(output))
