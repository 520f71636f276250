"""VisuLogic."""

from __future__ import annotations

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import registered
from eval.benchmarks.released import LetterBenchmark


@registered
class VisuLogic(LetterBenchmark):
    """1,000 puzzles of visual logic in six kinds of reasoning.

    Source: `lmm_eval_Visu.json` of the released files. The choices A to D are in the image, and the
    gold is a letter. A field `tag` or `category`, if there is one, breaks scores down.
    Rule: accuracy by letter.
    Citation: W. Xu, J. Wang, W. Wang, Z. Chen, W. Zhou, A. Yang, L. Lu, H. Li, X. Wang, X. Zhu,
    W. Wang, J. Dai, J. Zhu, "VisuLogic: A Benchmark for Evaluating Visual Reasoning in Multi-modal
    Large Language Models", arXiv 2504.15279, 2025.
    """

    name = "visulogic"
    title = "VisuLogic"
    group_fields = {"category": ("tag", "category")}
    own = Columns(answer=("label", "answer"), images=("image_path", "image"))
