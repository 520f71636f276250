"""SEED-Bench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import Row, registered
from eval.benchmarks.released import LetterBenchmark
from eval.items import Broken


@registered
class Seed(LetterBenchmark):
    """Questions about images in twelve dimensions, from scene understanding to text recognition.

    Source: `lmm_eval_seed2k.json` of the released files, 2,000 image questions with four choices
    and a gold letter. Fields `category` or `question_type`, if they are there, break scores down.
    Rule: accuracy by letter.
    Citation: B. Li, Y. Ge, Y. Ge, G. Wang, R. Wang, R. Zhang, Y. Shan, "SEED-Bench: Benchmarking
    Multimodal Large Language Models", CVPR 2024.
    """

    name = "seed"
    title = "SEED-Bench"
    group_fields = {"category": ("category", "question_type", "question_type_id")}
    own = Columns(
        images=("image", "data_id"),
        lettered=(("choice_a", "choice_b", "choice_c", "choice_d"), tuple("ABCD")),
        folders=("SEED-Bench-image", "images", ""),
        nested=("questions",),
    )

    def rows(self, path: Path) -> Iterator[Row | Broken]:
        """Questions on videos are none of this benchmark's."""
        for row in super().rows(path):
            value = row.value if isinstance(row, Row) and isinstance(row.value, dict) else {}
            if value.get("data_type", "image") == "image":
                yield row
