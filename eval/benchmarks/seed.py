"""SEED-Bench."""

from __future__ import annotations

from eval.benchmarks.base import registered
from eval.benchmarks.released import LetterBenchmark


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
