"""VDC, video detailed captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from caprl_native.data.formats import FieldError
from caprl_native.text.thoughts import without_thoughts
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.benchmarks.judging import about_caption
from eval.items import Broken, Item, ToJudge, Verdict
from eval.scoring.vdc import Grade, read_grade, vdc_scores

ANSWER = (
    "You answer a question about a video that you cannot see. All you know of it is a caption. "
    "Answer from the caption alone, in a few words or a short sentence, and write nothing else."
)
GRADE = (
    "You compare answers to a question about a video. You get the question, its right answer and "
    "another answer. Does the other answer mean the same as the right one? Paraphrases and "
    "synonyms do. Say yes or no, and give a grade from 0 (nothing in common) to 5 (the same). "
    'Reply with one JSON object and nothing else: {"match": "yes" or "no", "grade": number}'
)
PROMPTS = {  # what is asked of the captioner, by the kind of caption; others: the usual prompt
    "camera": "Describe the camera work of this video in detail: shots, angles, movements, and how "
    "scenes change.",
    "short": "Describe this video in one sentence.",
    "background": "Describe the background of this video in detail: the place, what is there, the "
    "weather and the time.",
    "main_object": "Describe the main subject of this video in detail: what it is, how it looks, "
    "what it does, and where it moves.",
    "detailed": "",
}
FOLDERS = ("", "videos/", "Test_Videos/")
SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm")


@registered
class Vdc(Benchmark):
    """Questions on structured captions of 1,027 videos: camera, background, subject, short, whole.

    Source: `VDCScore_qa/<kind>.jsonl`, an object on each line: `{video_id: [{"question", "answer",
    "category"}, ...]}`; or lmms-eval's Parquet files (`video_name`, `qa_list`) in a folder or file
    named after the kind. Videos lie in `videos/`, `Test_Videos/` or flat.
    Rule: a judge answers each question from the caption, then compares the answer with the right
    one: the same or not, and a grade from 0 to 5. VDCscore is the mean grade, accuracy the share of
    matches; means over questions of a video, videos, kinds. Here every video counts (the authors'
    script leaves out those of which nothing is right), a grade that cannot be read is missing
    (lmms-eval: 0 and "no"), and each kind of caption is asked for in one wording (theirs: one of
    many, at random).
    Citation: W. Chai, E. Song, Y. Du, C. Meng, V. Madhavan, O. Bar-Tal, J.-N. Hwang, S. Xie, C. D.
    Manning, "AuroraCap: Efficient, Performant Video Detailed Captioning and a New Benchmark", ICLR
    2025.
    """

    name = "vdc"
    title = "VDC"
    modality = "video"
    headline = ("VDCscore", "accuracy")
    judged_by_model = True
    asks_reader = False

    def rows(self, path: Path) -> Iterator[Row | Broken]:
        """A row for each video."""
        for row in super().rows(path):
            value = row.value if isinstance(row, Row) else None
            if isinstance(row, Broken) or not isinstance(value, dict) or "qa_list" in value:
                yield row
                continue
            for video, questions in value.items():
                found = {"video_id": video, "qa_list": questions}
                yield Row(found, f"{row.source}:{video}", row.file)

    def item(self, row: Row, files: Files) -> list[Item | Broken]:
        video, kind = row.text("video_id", "video_name"), _kind(row.file)
        for suffix in SUFFIXES:
            video = video.removesuffix(suffix)
        paths = [f"{folder}{video}{suffix}" for folder in FOLDERS for suffix in SUFFIXES]
        media = (MediaRef("video", files.medium(row.file, *paths)),)
        listed = row.value.get("qa_list")
        if not isinstance(listed, list) or not listed:
            raise FieldError("qa_list", "missing or empty", "give a list of questions")
        return [
            _item(Row(asked, f"{row.source}#{number}", row.file), kind, video, number, media)
            for number, asked in enumerate(listed)
        ]

    def score(self, item: Item, output: str, rule: Rule) -> ToJudge:
        request = f"The question: {item.question}"
        read = partial(_answered, item)
        return ToJudge(about_caption(ANSWER, output, request, "grade"), read)

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        grades = [
            (item.groups["kind"], item.extra["video"], Grade(v.score == 1, v.detail["grade"]))
            for item, v in scored
            if v
        ]
        found = vdc_scores(grades)
        return {n: v * (1 if n.startswith("VDCscore") else 100) for n, v in found.items()}


def _answered(item: Item, reply: str) -> ToJudge | None:
    """The second step: the answer beside the right one."""
    said = without_thoughts(reply).strip()
    if not said:
        return None
    user = f"Question: {item.question}\n\nRight answer: {item.answer}\n\nOther answer: {said}"
    messages = [{"role": "system", "content": GRADE}, {"role": "user", "content": user}]
    return ToJudge(messages, partial(_graded, said))


def _graded(said: str, reply: str) -> Verdict | None:
    grade = read_grade(reply)
    return grade and Verdict(float(grade.match), said, {"grade": grade.score})


def _kind(file: Path) -> str:
    """The kind of caption that a file asks about."""
    names = file.stem, file.parent.name
    return next((kind for name in names for kind in PROMPTS if kind in name), file.stem)


def _item(
    row: Row, kind: str, video: str, number: int, media: tuple[MediaRef, ...]
) -> Item | Broken:
    try:
        if not isinstance(row.value, dict):
            raise FieldError("qa_list", f"{row.value!r:.60} is no question")
        question, answer = row.text("question"), row.text("answer")
    except FieldError as error:
        return Broken(row.source, str(error))
    return Item(
        id=f"{kind}/{video}#{number}",
        media=media,
        question=question,
        answer=answer,
        prompt=_prompt(kind),
        groups={"kind": kind},
        extra={"video": video},
        caption_ids=(f"{kind}/{video}", video),
        source=row.source,
    )


def _prompt(kind: str) -> tuple[dict[str, Any], ...]:
    text = PROMPTS.get(kind)
    content = [{"type": "video"}, {"type": "text", "text": text}]
    return ({"role": "user", "content": content},) if text else ()
