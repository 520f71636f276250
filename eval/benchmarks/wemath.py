"""We-Math."""

from __future__ import annotations

from eval.benchmarks.authors import Columns
from eval.benchmarks.base import registered
from eval.benchmarks.released import LetterBenchmark


@registered
class WeMath(LetterBenchmark):
    """Problems of visual mathematics, composed of one to three steps of elementary knowledge.

    Source: `lmm_eval_WeMath.json` of the released files: lettered choices, a gold letter. Fields
    `key` (of one step, or of several) and `knowledge concept`, if they are there, break scores
    down.
    Rule: accuracy by letter. The paper's four-dimensional metrics need a problem's steps together
    and are not computed.
    Citation: R. Qiao, Q. Tan, G. Dong et al., "We-Math: Does Your Large Multimodal Model Achieve
    Human-like Mathematical Reasoning?", ACL 2025.
    """

    name = "wemath"
    title = "We-Math"
    group_fields = {"step": ("key",), "concept": ("knowledge concept", "knowledge_concept")}
    own = Columns(images=("image_path", "image"), choices=("option", "options"))
