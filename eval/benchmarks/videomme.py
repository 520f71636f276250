"""Video-MME."""

from __future__ import annotations

import re
from pathlib import Path

from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, by_letter, registered
from eval.benchmarks.fields import choices_of, letter_of
from eval.items import Item, Verdict

KINDS = {
    "duration": ("duration",),
    "domain": ("domain",),
    "category": ("sub_category",),
    "task": ("task_type",),
}
_TIMES = re.compile(r"\d+:\d\d:\d\d[,.]\d+\s*-->")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@registered
class VideoMME(Benchmark):
    """2,700 questions on 900 videos from YouTube, short, medium and long, in six domains.

    Source: the data set's Parquet file (`videoID`, `question_id`, `duration`, `domain`,
    `sub_category`, `task_type`, `question`, `options` labelled "A. ", `answer`), or the TSV that
    VLMEvalKit makes of it (`video`, `video_path`, `candidates`). Videos lie in `data/` or `video/`
    or flat, as `<videoID>.mp4`; with `subtitles` set, `<videoID>.srt` there is read beside the
    caption, where the video has any.
    Rule: accuracy by letter.
    Citation: C. Fu, Y. Dai, Y. Luo et al., "Video-MME: The First-Ever Comprehensive Evaluation
    Benchmark of Multi-modal LLMs in Video Analysis", CVPR 2025.
    """

    name = "videomme"
    title = "Video-MME"
    modality = "video"

    def item(self, row: Row, files: Files) -> Item:
        video = row.text("videoID", "video")
        choices = choices_of(row, "options", "candidates")
        paths = [f"{video}.mp4", f"data/{video}.mp4", f"video/{video}.mp4"]
        if given := row.text("video_path", default=""):
            paths.insert(0, given)
        groups = {kind: row.text(*names, default="") for kind, names in KINDS.items()}
        return Item(
            id=row.text("question_id", "index", default=row.name),
            media=(MediaRef("video", files.medium(row.file, *paths)),),
            question=row.text("question"),
            answer=letter_of(row, "answer", choices),
            choices=choices,
            groups={kind: value for kind, value in groups.items() if value},
            subtitles=read_subtitles(files.subtitles / f"{video}.srt") if files.subtitles else "",
            source=row.source,
        )

    def score(self, item: Item, output: str, rule: Rule) -> Verdict:
        return by_letter(item, output)


def read_subtitles(path: Path) -> str:
    """The texts of an .srt file, one line each; "" where there is no file.

    Raises `FieldError` for a file that is not UTF-8.
    """
    if not path.is_file():
        return ""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FieldError("subtitles", f"{path} is not UTF-8", "convert the file") from error
    found: list[str] = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        line = _said(block)
        if line and found[-1:] != [line]:  # rolling subtitles repeat themselves
            found.append(line)
    return "\n".join(found)


def _said(block: str) -> str:
    """What stands below the line with the times of one subtitle."""
    lines = block.split("\n")
    start = next((i for i, line in enumerate(lines) if _TIMES.match(line.strip())), len(lines))
    said = _MARKUP.sub("", " ".join(lines[start + 1 :])).replace("\\N", " ")
    return " ".join(said.split())
