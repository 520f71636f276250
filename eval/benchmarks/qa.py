"""Questions in the trainer's own formats: held-out CapRL-QA, CapRL-Video-QA, or one's own."""

from __future__ import annotations

import os

from caprl_native.data.choices import LETTERS
from caprl_native.data.formats import parse_record
from caprl_native.rewards.questions import ShownQuestion, draw, read_answer
from caprl_native.seeds import rng_of
from caprl_native.types import Question, Sample
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.items import Item, Verdict


@registered
class Qa(Benchmark):
    """Multiple-choice questions in the formats that `data.files` of a training run takes.

    They are asked as the trainer's reader is asked: choices shuffled (with a seed of the question's
    own), one more choice that says that the caption does not tell, and accuracy by letter.
    """

    name = "qa"
    title = "Caption QA"
    modality = "both"

    def item(self, row: Row, files: Files) -> list[Item]:
        root = files.media_root or row.file.parent
        sample = parse_record(
            row.value,
            kind="questions",
            source=row.source,
            default_id=row.name,
            media_root=str(root),
        )
        for medium in sample.media:
            if medium.path:
                files.check_inside(row.file, medium.path.removeprefix(os.path.join(root, "")))
        return [_item(sample, i, question) for i, question in enumerate(sample.questions)]

    def score(self, item: Item, output: str, rule: Rule) -> Verdict:
        shown = ShownQuestion(
            item.question, item.choices, LETTERS[: len(item.choices)], item.answer, None
        )
        said = read_answer(output, shown)
        return Verdict(float(said == item.answer), said)


def _item(sample: Sample, number: int, question: Question) -> Item:
    name = f"{sample.id}#{number}"
    shown = draw(question, rng_of("prism", name))
    return Item(
        id=name,
        media=sample.media,
        question=shown.question,
        answer=shown.answer,
        choices=shown.choices,
        prompt=sample.messages,
        groups={"modality": sample.modality},
        source=sample.source,
    )
