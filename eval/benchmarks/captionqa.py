"""CaptionQA."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caprl_native.data.choices import LETTERS
from caprl_native.data.formats import FieldError
from caprl_native.seeds import rng_of
from caprl_native.types import MediaRef
from eval.benchmarks.authors import Columns, images_of
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.items import Broken, Item, ToJudge, Verdict
from eval.scoring.captionqa import CANNOT_ANSWER, abstention, is_yes_no
from eval.scoring.letters import choice_letter

IMAGES = Columns(images=("images", "image"))
SUFFIXES = ("", ".jpg", ".png", ".jpeg")


@registered
class CaptionQA(Benchmark):
    """Multiple-choice questions on natural images, documents, products and robots' views.

    Source: the data set's Parquet files (`id`, `images`, `questions`: a list of `question`,
    `choices`, `answer`, which is a choice's text, `category`), or a JSON object of such lists by
    image, `<image>`, `<image>.jpg` or `.png`, flat or in `images/`.
    Rule: a judge answers from the caption. Right: 1; wrong: 0; "Cannot answer from the caption",
    which questions of yes or no do not offer: 1/n + 0.05 beside n choices. Here the order of the
    choices is of each question's own (the authors' is of one generator through all files), "yes"
    and "no" are words and not letters within others, and a reply without a letter is missing (the
    authors': 0).
    Citation: S. Yang, Y. Liu, B. Zhai, X. Sun, Z. Liu, E. Barsoum, M. Li, C. Xu, "CaptionQA: Is
    Your Caption as Useful as the Image Itself?", arXiv 2511.21025, 2025.
    """

    name = "captionqa"
    title = "CaptionQA"
    modality = "image"
    metric = "score"
    headline = ("accuracy", "cannot answer")
    judged_by_model = True
    asks_reader = False

    def rows(self, path: Path) -> Iterator[Row | Broken]:
        for row in super().rows(path):
            if isinstance(row, Row) and isinstance(row.value, list):
                image = row.source.removeprefix(f"{row.file}:")
                row = Row({"id": image, "questions": row.value}, row.source, row.file)
            yield row

    def item(self, row: Row, files: Files) -> list[Item | Broken]:
        name = row.text("id", default=row.name)
        if any(row.value.get(column) is not None for column in IMAGES.images):
            media = images_of(row, files, IMAGES)
        else:
            paths = [f"{f}{name}{s}" for f in ("", "images/") for s in SUFFIXES]
            media = (MediaRef("image", files.medium(row.file, *paths)),)
        return [
            _item(Row(question, f"{row.source}#{number}", row.file), name, number, media)
            for number, question in enumerate(_questions(row))
        ]

    def score(self, item: Item, output: str, rule: Rule) -> ToJudge:
        return ToJudge(self.chat(item, output))

    def judged(self, item: Item, output: str, reply: str) -> Verdict | None:
        said = choice_letter(reply, dict(zip(LETTERS, item.choices, strict=False)))
        if said is None:
            return None
        abstained = said == item.extra["abstention"]
        if abstained:
            return Verdict(abstention(item.extra["choices"]), said, {"abstained": True})
        return Verdict(float(said == item.answer), said)

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        verdicts = [verdict for _, verdict in scored if verdict]
        if not verdicts:
            return {}
        abstained = sum("abstained" in v.detail for v in verdicts)
        right = sum(v.score == 1 for v in verdicts)
        share = 100 / len(verdicts)
        return {"accuracy": right * share, "cannot answer": abstained * share}


def _questions(row: Row) -> list[Any]:
    """The records of an image's questions. Raises `FieldError`."""
    value = row.value.get("questions")
    if isinstance(value, dict):  # a column of each field, as some Parquet writers have it
        columns = [column for column in value.values() if isinstance(column, list)]
        value = [dict(zip(value, of, strict=True)) for of in zip(*columns, strict=True)]
    if not isinstance(value, list) or not value:
        raise FieldError("questions", "missing or empty", "give a list of questions")
    return value


def _item(row: Row, image: str, number: int, media: tuple[MediaRef, ...]) -> Item | Broken:
    try:
        if not isinstance(row.value, dict):
            raise FieldError("questions", f"{row.value!r:.60} is no question")
        question, choices = row.text("question"), _choices(row)
        gold = _gold(row, choices)
    except FieldError as error:
        return Broken(row.source, str(error))
    name = f"{image}#{number}"
    offered = [*choices] if is_yes_no(question, choices) else [*choices, CANNOT_ANSWER]
    order = list(range(len(offered)))
    rng_of("captionqa", name).shuffle(order)
    abstains = len(offered) > len(choices)
    return Item(
        id=name,
        media=media,
        question=question,
        answer=LETTERS[order.index(gold)],
        choices=tuple(offered[i] for i in order),
        groups=_groups(row, image),
        extra={
            "choices": len(choices),
            "abstention": LETTERS[order.index(len(choices))] if abstains else None,
        },
        caption_ids=(image,),
        source=row.source,
    )


def _choices(row: Row) -> list[str]:
    """The choices' texts. Raises `FieldError`."""
    listed = row.value.get("choices")
    listed = listed if isinstance(listed, list) else []
    texts = [c.get("text") if isinstance(c, dict) else c for c in listed]
    if not 2 <= len(texts) < len(LETTERS):
        raise FieldError("choices", f"{len(texts)} choices", f"give 2 to {len(LETTERS) - 1}")
    return [str(text).strip() for text in texts]


def _gold(row: Row, choices: Sequence[str]) -> int:
    """The place of the right choice. Raises `FieldError`."""
    answer = row.text("answer")
    if answer not in choices:
        raise FieldError("answer", f"{answer!r:.60} is none of the choices", "give a choice's text")
    return choices.index(answer)


def _groups(row: Row, image: str) -> dict[str, str]:
    category = row.value.get("category")
    if isinstance(category, list):
        category = category[0] if category else None
    domain = re.match(r"[A-Za-z]+(?=_\d)", image)  # nat_001, doc_042
    found = {"category": category, "domain": domain[0] if domain else None}
    return {kind: str(value) for kind, value in found.items() if value}
