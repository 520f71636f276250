"""MMVU."""

from __future__ import annotations

import re

from caprl_native.data.choices import LETTERS, parse_choices
from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.benchmarks.fields import letter_of
from eval.benchmarks.judging import same_answer, yes_or_no
from eval.items import Item, ToJudge, Verdict
from eval.scoring.letters import choice_letter
from eval.scoring.mmvu import mmvu_correct

DISCIPLINES = {
    "Science": "Astronomy, Biology, Chemistry, Electromagnetism, Geography, Materials Science, "
    "Mechanics, Modern Physics, Neurobiology, Thermodynamics",
    "Engineering": "Biomedical Engineering, Civil Engineering, Computer Science, Electrical "
    "Engineering, Electronics and Communication, Mechanical Engineering",
    "Healthcare": "Basic Medicine, Clinical Medicine, Dentistry, Pharmacy, Preventive Medicine",
    "Humanities & Social Science": "Art, Economics, History, Law, Literature, Management",
}
_DISCIPLINE_OF = {
    subject: discipline
    for discipline, subjects in DISCIPLINES.items()
    for subject in subjects.split(", ")
}


@registered
class MMVU(Benchmark):
    """3,000 expert questions on videos from 27 subjects in four disciplines.

    Source: the data set's `validation.json`: `id`, `video` (a path, or an address whose end
    `videos/<Subject>/<n>.mp4` is the path), `question_type` ("multiple-choice" or "open-ended"),
    `choices` (an object A to E, empty texts in open questions), `answer`, `metadata.subject`.
    Rule: accuracy. The official judge is a language model throughout; here multiple choice is
    decided by letter, and open questions by a judge.
    Citation: Y. Zhao, H. Zhang, L. Xie et al., "MMVU: Measuring Expert-Level Multi-Discipline Video
    Understanding", CVPR 2025.
    """

    name = "mmvu"
    title = "MMVU"
    modality = "video"
    judged_by_model = True

    def item(self, row: Row, files: Files) -> Item:
        choices = _choices(row)
        subject = _subject(row)
        groups = {
            "subject": subject,
            "discipline": _DISCIPLINE_OF.get(subject, ""),
            "question type": "multiple choice" if choices else "open",
        }
        video = row.text("video", "video_path")
        path = re.search(r"videos/[^/]+/[^/]+$", video)
        if path is None and "://" in video:
            raise FieldError("video", f"{video!r:.80} names no file", "give videos/<Subject>/...")
        return Item(
            id=row.text("id", default=row.name),
            media=(MediaRef("video", files.medium(row.file, path[0] if path else video)),),
            question=row.text("question"),
            answer=letter_of(row, "answer", choices) if choices else row.text("answer"),
            choices=choices,
            groups={kind: value for kind, value in groups.items() if value},
            source=row.source,
        )

    def score(self, item: Item, output: str, rule: Rule) -> Verdict | ToJudge:
        if not item.choices:
            return same_answer(item.question, item.answer, output)
        options = dict(zip(LETTERS, item.choices, strict=False))
        right = mmvu_correct(output, item.answer, options)
        return Verdict(float(right), item.answer if right else choice_letter(output, options))

    def judged(self, item: Item, output: str, reply: str) -> Verdict | None:
        return yes_or_no(reply)


def _choices(row: Row) -> tuple[str, ...]:
    """The choices of a multiple-choice question; none of an open one."""
    kind = row.text("question_type")
    if kind not in ("multiple-choice", "open-ended"):
        raise FieldError("question_type", f"{kind!r} is none", "multiple-choice or open-ended")
    if kind == "open-ended":
        return ()
    raw = row.value.get("choices")
    if not isinstance(raw, dict):
        raise FieldError("choices", f"expected an object, got {raw!r:.60}", "give A, B, ...")
    try:
        return parse_choices({key: text for key, text in raw.items() if text})
    except ValueError as error:
        raise FieldError("choices", str(error)) from error


def _subject(row: Row) -> str:
    metadata = row.value.get("metadata")
    subject = metadata.get("subject") if isinstance(metadata, dict) else None
    return str(subject or "").replace("_", " ").strip()
