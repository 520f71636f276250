"""MATH-Vision."""

from __future__ import annotations

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import registered
from eval.benchmarks.released import MathBenchmark


@registered
class MathVision(MathBenchmark):
    """Problems of mathematics competitions in 16 subjects and five levels of difficulty.

    Source: `lmm_eval_MathVision.json` of the released files: multiple choice with a gold letter,
    and free-form questions. Fields `subject` and `level`, if they are there, break scores down.
    Rule: accuracy, by letter where there are choices, else by equality of value.
    Citation: K. Wang, J. Pan, W. Shi, Z. Lu, H. Ren, A. Zhou, M. Zhan, H. Li, "Measuring Multimodal
    Mathematical Reasoning with MATH-Vision Dataset", NeurIPS 2024.
    """

    name = "mathvision"
    title = "MATH-Vision"
    group_fields = {"subject": ("subject",), "level": ("level",)}
    own = Columns(images=("decoded_image", "image"), choices=("options",))
