"""MMBench-Video."""

from __future__ import annotations

from collections.abc import Sequence

from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.benchmarks.fields import list_of
from eval.benchmarks.judging import compared
from eval.items import Item, ToJudge, Verdict
from eval.scoring.mmbench_video import LABELS, dimension_means, judge_score

GRADE = (
    "You grade answers to questions about a video. You get a question, its right answer, and the "
    "answer of a model. Grade how much of what the right answer says the model's answer says, too; "
    "style and grammar do not matter. 3: all of it. 2: most of it. 1: little of it. 0: nothing of "
    "it, or the model does not answer. Reply with the grade, 0, 1, 2 or 3, and nothing else."
)


@registered
class MMBenchVideo(Benchmark):
    """1,998 open questions on 609 videos from YouTube, in 26 dimensions of ability.

    Source: the data set's TSV: `index`, `video`, `video_type`, `question`, `answer`, `dimensions`
    (a list in Python's notation), `video_path`. Videos lie at `video_path`, or as `<video>.mp4` in
    `video/` or flat.
    Rule: a judge grades each answer from 0 to 3. Means by dimension as in VLMEvalKit: `_all` with
    failed judgements as 0, `_valid` without them.
    Citation: X. Fang, K. Mao, H. Duan, X. Zhao, Y. Li, D. Lin, K. Chen, "MMBench-Video: A Long-Form
    Multi-Shot Benchmark for Holistic Video Understanding", NeurIPS 2024.
    """

    name = "mmbench_video"
    title = "MMBench-Video"
    modality = "video"
    metric = "grade (0 to 3)"
    unit = "points"
    full = 3.0
    judged_by_model = True

    def item(self, row: Row, files: Files) -> Item:
        video = row.text("video")
        paths = [f"video/{video}.mp4", f"{video}.mp4"]
        if given := row.text("video_path", default=""):
            paths.insert(0, given)
        return Item(
            id=row.text("index", default=row.name),
            media=(MediaRef("video", files.medium(row.file, *paths)),),
            question=row.text("question"),
            answer=row.text("answer"),
            groups={"category": row.text("video_type", default="other")},
            extra={"dimensions": _dimensions(row)},
            source=row.source,
        )

    def score(self, item: Item, output: str, rule: Rule) -> Verdict | ToJudge:
        return compared(GRADE, item.question, item.answer, output)

    def judged(self, item: Item, output: str, reply: str) -> Verdict | None:
        grade = judge_score(reply)
        return None if grade is None else Verdict(float(grade))

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        graded = [
            (item.extra["dimensions"], int(verdict.score) if verdict else None)
            for item, verdict in scored
        ]
        tables = dimension_means(graded)
        return {
            f"{dimension}_{name.rpartition('_')[2]}": float(mean)
            for name, table in tables.items()
            for dimension, mean in table.items()
            if mean != "nan"
        }


def _dimensions(row: Row) -> list[str]:
    found = list_of(row, "dimensions")
    unknown = [label for label in found if label not in LABELS]
    if unknown:
        raise FieldError("dimensions", f"{unknown[0]!r} is none", f"one of {', '.join(LABELS)}")
    return found
