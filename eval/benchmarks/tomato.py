"""TOMATO."""

from __future__ import annotations

from caprl_native.data.choices import LETTERS
from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.benchmarks.fields import choices_of
from eval.items import Item, Verdict
from eval.scoring.letters import choice_letter
from eval.scoring.tomato import official_letter


@registered
class Tomato(Benchmark):
    """1,484 questions on time itself: counts, directions, rotations, shapes, speeds, cues.

    Source: the data set's JSON file of each kind of reasoning (`count.json`, `direction.json`,
    ...): an object of `{"question", "options", "answer": index, "demonstration_type", "key",
    "motion_type", "variation": {kind: 0 or 1}}`. Videos lie at `<demonstration_type>/<key>.mp4`,
    below the media root or its folder `videos/`.
    Rule: accuracy by letter, read by the official parser, and by ours where that finds none. (The
    official evaluation asks a language model then, and in the end draws a letter at random.)
    Citation: Z. Shangguan, C. Li, Y. Ding, Y. Zheng, Y. Zhao, T. Fitzgerald, A. Cohan, "TOMATO:
    Assessing Visual Temporal Reasoning Capabilities in Multimodal Foundation Models", ICLR 2025.
    """

    name = "tomato"
    title = "TOMATO"
    modality = "video"

    def item(self, row: Row, files: Files) -> Item:
        choices = choices_of(row, "options")
        kind, key = row.text("demonstration_type"), row.text("key")
        path = files.medium(row.file, f"{kind}/{key}.mp4", f"videos/{kind}/{key}.mp4")
        return Item(
            id=row.name,
            media=(MediaRef("video", path),),
            question=row.text("question"),
            answer=_letter(row, choices),
            choices=choices,
            groups={
                "reasoning": row.file.stem,
                "demonstration": kind,
                "motion": row.text("motion_type", default="none"),
                "variation": _variation(row),
            },
            source=row.source,
        )

    def score(self, item: Item, output: str, rule: Rule) -> Verdict:
        options = dict(zip(LETTERS, item.choices, strict=False))
        said = official_letter(output, options)
        if said not in options:
            said = choice_letter(output, options)
        return Verdict(float(said == item.answer), said)


def _letter(row: Row, choices: tuple[str, ...]) -> str:
    index = row.value.get("answer")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise FieldError(
            "answer", f"{index!r} is no option's index", f"give 0 to {len(choices) - 1}"
        )
    return LETTERS[index]


def _variation(row: Row) -> str:
    """The kinds that are set to 1, e.g. "composite, zoom"."""
    kinds = row.value.get("variation")
    chosen = [k for k, on in kinds.items() if on] if isinstance(kinds, dict) else []
    return ", ".join(sorted(chosen)) or "none"
