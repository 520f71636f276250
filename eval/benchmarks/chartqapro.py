"""ChartQAPro."""

from __future__ import annotations

from typing import Any

from caprl_native.data.formats import FieldError
from eval.benchmarks.authors import Columns
from eval.benchmarks.base import Files, Row, registered
from eval.benchmarks.released import Released, golds_of
from eval.items import Item, Verdict
from eval.scoring.caprl_image import image_score
from eval.scoring.chartqapro import chartqapro_score
from eval.scoring.math_answer import final_answer
from eval.scoring.relaxed import literal_list

TYPES = {
    name.casefold(): name
    for name in ("Factoid", "Conversational", "Fact Checking", "Multi Choice", "Hypothetical")
}


@registered
class ChartQAPro(Released):
    """Questions about charts of many designs, dashboards and infographics.

    Source: `lmm_eval_ChartQA_Pro.json` of the released files. The data set's own fields `Question
    Type` and `Year`, or `question_type` and `year`, are used where they are there; without them a
    question is a factoid whose answer has no year, so that years, too, may be 5% off.
    Rule: the official script's: numbers within 5%, years exactly, other text by ANLS, lists
    element by element.
    Citation: A. Masry, M. S. Islam, M. Ahmed et al., "ChartQAPro: A More Diverse and Challenging
    Benchmark for Chart Question Answering", Findings of ACL 2025.
    """

    name = "chartqapro"
    title = "ChartQAPro"
    metric = "relaxed accuracy"
    golds = "text"
    listed_golds = False  # a gold like "[3, 5]" is one answer of two elements
    own = Columns(question=("Question",), answer=("Answer",))
    reference_score = staticmethod(image_score)

    def item(self, row: Row, files: Files) -> Item:
        item = super().item(row, files)
        years = _years(row.value.get("year", row.value.get("Year")))
        asked = len(_listed(row, "Question")) if "Question" in row.value and not item.chat else 1
        # Of a conversation the last turn's flag alone is of the answer that is scored.
        item.extra["years"] = years[-1:] if asked > 1 else years
        return item

    def own_question(self, row: Row) -> str:
        """The last question, after the paragraph that comes with the chart and the turns before."""
        questions, answers = (_listed(row, name) for name in ("Question", "Answer"))
        if len(questions) != len(answers):
            raise FieldError(
                "Answer", f"{len(answers)} for {len(questions)} questions", "give one for each"
            )
        paragraph = row.text("Paragraph", default="")
        before = zip(questions[:-1], answers[:-1], strict=True)
        turns = [f"Question: {question}\nAnswer: {answer}" for question, answer in before]
        return "\n\n".join([*([paragraph] if paragraph else []), *turns, questions[-1]])

    def own_answer(self, row: Row) -> Any:
        return _listed(row, "Answer")[-1]

    def groups(self, row: Row, letter: str | None) -> dict[str, str]:
        return {"question type": _question_type(row)}

    def official(self, item: Item, output: str) -> Verdict:
        said = final_answer(output)
        kind = item.groups["question type"]
        score = chartqapro_score(said, golds_of(item), item.extra["years"], kind)
        return Verdict(score, said)


def _listed(row: Row, name: str) -> list[str]:
    """The texts of a column that has one for each turn. Raises `FieldError`."""
    value = row.value.get(name)
    found = [str(v).strip() for v in (value if isinstance(value, list) else [value]) if v]
    if not found or not all(found):
        raise FieldError(name, "missing or empty", "give a text, or one for each turn")
    return found


def _question_type(row: Row) -> str:
    given = row.text("question_type", "Question Type", default="Factoid")
    kind = TYPES.get(given.replace("_", " ").casefold())
    if kind is None:
        valid = ", ".join(TYPES.values())
        raise FieldError("question_type", f"{given!r} is none", f"one of {valid}")
    return kind


def _years(value: Any) -> list[str]:
    """Of each answer's element, "YES" where it is a year and must match exactly."""
    listed = literal_list(value) if isinstance(value, str) else value
    flags = [str(f).upper() for f in (listed if isinstance(listed, list) else [value or "NO"])]
    wrong = [flag for flag in flags if flag not in ("YES", "NO")]
    if wrong or not flags:
        raise FieldError("year", f"{value!r} is no flag", "give YES or NO for each answer")
    return flags
