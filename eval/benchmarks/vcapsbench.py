"""VCapsBench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.benchmarks.judging import about_caption
from eval.items import Broken, Item, ToJudge, Verdict
from eval.scoring.stated import stated_word
from eval.scoring.vcapsbench import ANSWERS, Outcome, outcome, rates

INSTRUCTION = (
    "You answer a question about a video that you cannot see. All you know of it is a caption. "
    "Answer Yes or No if the caption says so or leaves no doubt. Answer Unanswerable if it does "
    "not tell. Reply with one word, Yes, No or Unanswerable, and nothing else."
)


@registered
class VCapsBench(Benchmark):
    """Questions of yes or no about videos, in 21 dimensions that matter to those who generate them.

    Source: `VCapsBench_100KQA.jsonl`: `video_id`, and `qa`, a list of "dimension*question*answer".
    Videos lie as `<video_id>.mp4` in `videos5k/`, `videos/`, or flat.
    Rule: a judge answers from the caption, "unanswerable" where it does not tell. AR: the share of
    right answers; IR: of wrong ones among yes and no; CR: of yes and no among all. As in the
    authors' script a reply that cannot be read counts nowhere.
    Citation: S.-X. Zhang, H. Wang, D. Huang, X. Li, X. Zhu, X.-C. Yin, "VCapsBench: A Large-scale
    Fine-grained Benchmark for Video Caption Quality Evaluation", AAAI 2026.
    """

    name = "vcapsbench"
    title = "VCapsBench"
    modality = "video"
    metric = "AR"
    headline = ("IR", "CR")
    judged_by_model = True
    asks_reader = False

    def item(self, row: Row, files: Files) -> list[Item | Broken]:
        video = row.text("video_id").removesuffix(".mp4")
        folders = ("videos5k/", "videos/", "")
        path = files.medium(row.file, *(f"{folder}{video}.mp4" for folder in folders))
        listed = row.value.get("qa")
        if not isinstance(listed, list) or not listed:
            raise FieldError("qa", "missing or empty", 'give a list of "dimension*question*answer"')
        found: list[Item | Broken] = []
        for number, text in enumerate(listed):
            source = f"{row.source}#{number}"
            try:
                dimension, question, answer = _parts(text)
            except FieldError as error:
                found.append(Broken(source, str(error)))
                continue
            found.append(
                Item(
                    id=f"{video}#{number}",
                    media=(MediaRef("video", path),),
                    question=question,
                    answer=answer,
                    groups={"dimension": dimension},
                    caption_ids=(video,),
                    source=source,
                )
            )
        return found

    def score(self, item: Item, output: str, rule: Rule) -> ToJudge:
        request = f"The question: {item.question}"
        return ToJudge(about_caption(INSTRUCTION, output, request, "answer"))

    def judged(self, item: Item, output: str, reply: str) -> Verdict | None:
        said = stated_word(reply, ANSWERS)
        if said is None:
            return None
        found = outcome(said, item.answer)
        return Verdict(float(found == "right"), said, {"outcome": found})

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        found: list[Outcome] = [verdict.detail["outcome"] for _, verdict in scored if verdict]
        return {name: 100 * rate for name, rate in rates(found).items() if name != self.metric}


def _parts(text: Any) -> tuple[str, str, str]:
    """Dimension, question and answer; a question may hold stars itself. Raises `FieldError`."""
    parts = [part.strip() for part in text.split("*")] if isinstance(text, str) else []
    if len(parts) < 3 or not all(parts):
        raise FieldError("qa", f'{text!r:.60} is not "dimension*question*answer"')
    answer = parts[-1].casefold().rstrip(".")
    if answer not in ANSWERS:
        raise FieldError("qa", f"the answer {parts[-1]!r:.60} is none of {', '.join(ANSWERS)}")
    return parts[0], "*".join(parts[1:-1]), answer
