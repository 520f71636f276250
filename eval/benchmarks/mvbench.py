"""MVBench."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from caprl_native.data.choices import LETTERS, squeezed
from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.benchmarks.fields import choices_of
from eval.items import Item, Verdict
from eval.scoring.letters import choice_letter
from eval.scoring.mvbench import mvbench_correct

FRAMES_PER_SECOND = 3.0  # of the folders of frames, unless the record says otherwise


@dataclass(frozen=True)
class Task:
    """Where a task's videos lie in the data set, and whether its questions are on a clip.

    `cut`: the folder of the clips already cut out, `converted`: that of the videos as MP4, in the
    data set's revision `video`.
    """

    folder: str
    clip: bool = False
    frames: bool = False
    cut: str = ""
    converted: str = ""


_STAR = Task("star/Charades_v1_480", clip=True, cut="star/Charades_segment")
_CLEVRER = Task("clevrer/video_validation")
_PERCEPTION = Task("perception/videos")
TASKS = {
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "object_interaction": _STAR,
    "action_localization": Task("sta/sta_video", clip=True, cut="sta/sta_video_segment"),
    "episodic_reasoning": Task(
        "tvqa/frames_fps3_hq", clip=True, frames=True, cut="tvqa/video_fps3_hq_segment"
    ),
    "object_existence": _CLEVRER,
    "moving_direction": _CLEVRER,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "counterfactual_inference": _CLEVRER,
    "object_shuffle": _PERCEPTION,
    "action_count": _PERCEPTION,
    "state_change": _PERCEPTION,
    "character_order": _PERCEPTION,
    "action_antonym": Task("ssv2_video", converted="ssv2_video_mp4"),
    "fine_grained_action": Task("Moments_in_Time_Raw/videos"),
    "unexpected_action": Task("FunQA_test/test"),
    "scene_transition": Task("scene_qa/video"),
    "fine_grained_pose": Task("nturgbd", converted="nturgbd_convert"),
    "egocentric_navigation": Task("vlnqa"),
}


@registered
class MVBench(Benchmark):
    """4,000 questions in twenty tasks of temporal understanding, 200 each.

    Source: the data set's JSON file of each task, whose stem is the task's name: a list of
    `{"video", "question", "candidates", "answer": the right candidate's text}`, with `start` and
    `end` in seconds where a task is on clips, and sometimes `fps`; or VLMEvalKit's TSV of all
    tasks (`task_type`, `prefix`, `data_type`, `bound`). Videos lie in the folders of the authors'
    archives, below the media root or its folder `video/`, or flat; episodic reasoning has folders
    of frames, three per second. Of the revision `video`, clips that are cut out already are taken
    whole.
    Rule: accuracy; as VLMEvalKit's `check_ans`, without what it takes for right by mistake.
    Citation: K. Li, Y. Wang, Y. He, Y. Li, Y. Wang, Y. Liu, Z. Wang, J. Xu, G. Chen, P. Luo,
    L. Wang, Y. Qiao, "MVBench: A Comprehensive Multi-modal Video Understanding Benchmark", CVPR
    2024.
    """

    name = "mvbench"
    title = "MVBench"
    modality = "video"

    def item(self, row: Row, files: Files) -> Item:
        name = row.text("task_type", default=row.file.stem)
        key = re.sub(r"_\d+$", "", re.sub(r"\W+", "_", name.lower()))
        choices = choices_of(row, "candidates")
        return Item(
            id=row.text("index", "question_id", default=row.name),
            media=(_video(row, files, TASKS.get(key)),),
            question=row.text("question"),
            answer=_letter(row, choices),
            choices=choices,
            groups={"task": key.replace("_", " ")},
            source=row.source,
        )

    def score(self, item: Item, output: str, rule: Rule) -> Verdict:
        options = dict(zip(LETTERS, item.choices, strict=False))
        gold = f"({item.answer}) {options[item.answer]}"
        right = mvbench_correct(output, gold, options)
        return Verdict(float(right), item.answer if right else choice_letter(output, options))


def _letter(row: Row, choices: tuple[str, ...]) -> str:
    """The letter of the first candidate that is the answer's text."""
    answer = squeezed(row.text("answer"))
    for letter, choice in zip(LETTERS, choices, strict=False):
        if squeezed(choice) == answer:
            return letter
    raise FieldError(
        "answer", f"{answer!r} is not among the candidates {list(choices)}", "give one's text"
    )


def _video(row: Row, files: Files, task: Task | None) -> MediaRef:
    name = row.text("video")
    prefix = row.text("prefix", default=f"video/{task.folder}" if task else "")
    inner = re.sub(r"^(\./)?video/", "", prefix)
    # What the authors added later lies in a folder of its own.
    folders = (prefix, inner, f"video/data0613/{inner}", "")
    whole = [str(Path(folder) / name) for folder in folders]
    path = files.medium(row.file, *whole, *_copies(name, task))
    if task and task.cut and Path(path).parent.as_posix().endswith(task.cut):
        return MediaRef("video", path)
    frames = row.text("data_type", default="frame" if task and task.frames else "") == "frame"
    fps = _seconds(row, "fps") or FRAMES_PER_SECOND if frames else None
    if not _on_clip(row, task):
        return MediaRef("video", path, fps=fps)
    start, end = _seconds(row, "start"), _seconds(row, "end")
    if start is not None and end is not None and end <= start:
        raise FieldError("end", f"{end:g} is not after the start, {start:g}", "give seconds")
    return MediaRef("video", path, start=start, end=end, fps=fps)


def _copies(name: str, task: Task | None) -> list[str]:
    """Where the revision `video` has it."""
    folders = [folder for folder in (task.cut, task.converted) if folder] if task else []
    names = (name, str(Path(name).with_suffix(".mp4")), f"{name}.mp4")
    return [str(Path(folder) / n) for folder in folders for n in names]


def _on_clip(row: Row, task: Task | None) -> bool:
    """Tables say it in `bound`; of an unknown task, start and end are taken as they are."""
    default = str(task.clip if task else True)
    value = row.value.get("bound")
    return (str(value) if value is not None else default).strip().lower() == "true"


def _seconds(row: Row, name: str) -> float | None:
    text = row.text(name, default="")
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise FieldError(name, f"{text!r} is no number", "give seconds") from error
