"""A small file of every benchmark in its own format, with real media, and what is read from it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.testing.media_files import moving_square, write_mp4, write_png
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.items import Broken, Item

Record = dict[str, Any]
OFTEN = MediaConfig(image_min_pixels=1, video_fps=10)  # frames of videos of two seconds


@dataclass(frozen=True)
class Example:
    """A record, the item that it is, and an answer that is right and one that is wrong.

    `record` is the file's, without its images; the writers of videos have theirs themselves.
    `judged`: a judge has to decide.
    """

    id: str
    record: Record
    answer: Any
    right: str
    wrong: str
    choices: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)
    judged: bool = False


def qwen_prompt(question: str, opened: str = "", pads: int = 1) -> str:
    """The reader's prompt as the released files have it."""
    pad = "<|vision_start|><|image_pad|><|vision_end|>" * pads
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{pad}{question}<|im_end|>\n<|im_start|>assistant\n{opened}"
    )


# --- images -----------------------------------------------------------------------------------

FRUITS = ("an apple", "a pear", "a plum", "a fig")
MENU = "A. an apple\nB. a pear\nC. a plum\nD. a fig\nAnswer with the letter of the right option."


def fruit(name: str, groups: dict[str, str], **fields: str) -> Example:
    """A question with four lettered choices."""
    record = {"prompt": qwen_prompt(f"What lies on the table?\n{MENU}"), "answer": "B", **fields}
    return Example(name, record, "B", "B", "C", FRUITS, groups)


def asked(name: str, question: str, answer: Any, right: str, wrong: str, **more: Any) -> Example:
    """An open question; `fields` of `more` are the record's, the rest is expected of the item."""
    record = {"prompt": qwen_prompt(question), "answer": answer} | more.pop("fields", {})
    return Example(name, record, more.pop("read", str(answer)), right, wrong, **more)


IMAGES: dict[str, tuple[Example, ...]] = {
    "chartqa": (
        asked("chartqa:1", "What share is coal?", "42", "43.5", "45", groups={"type": "human"},
              fields={"type": "human"}),
        asked("chartqa:2", "Which is largest?", ["Oil", "Crude oil"], "oil", "Coal",
              read=["Oil", "Crude oil"]),
        asked("chartqa:3", "Which year?", "['1999', '2001']", "2001", "1800",
              read=["1999", "2001"]),
    ),
    "chartqapro": (
        asked("chartqapro:1", "What share is coal?", "42", "43.5", "45",
              groups={"question type": "Factoid"}),
        asked("chartqapro:2", "Which year?", ["1999"], "1999", "1200", read="1999",
              groups={"question type": "Hypothetical"},
              fields={"Question Type": "Hypothetical", "Year": ["YES"]}),
        asked("chartqapro:3", "Which two?", "[3, 5]", "[3, 5]", "[7, 9]",
              groups={"question type": "Fact Checking"},
              fields={"question_type": "Fact Checking", "year": "NO"}),
    ),
    "charxiv": (
        asked("charxiv:1", "How many curves are there?", "4", "4", "5",
              groups={"category": "cs", "answer": "number in general"},
              fields={"category": "cs", "inst_category": 4}),
        asked("charxiv:2", "What is the title?", "Loss over time", "Loss over time", "Accuracy",
              judged=True),
    ),
    "infovqa": (
        asked("infovqa:1", "Who pays?", ["The state", "state"], "The state", "Nobody knows",
              read=["The state", "state"], groups={"answer type": "single span"},
              fields={"answer_type": "single span"}),
    ),
    "mmstar": (
        fruit("17", {"category": "math", "subcategory": "geometry"}, id="17", category="math",
              l2_category="geometry"),
        fruit("mmstar:2", {}),
    ),
    "seed": (
        fruit("seed:1", {"category": "Instance Counting"}, category="Instance Counting"),
    ),
    "mmmu": (
        fruit("validation_Art_Theory_3",
              {"subject": "Art Theory", "discipline": "Art & Design", "question": "multiple choice",
               "difficulty": "Easy"},
              id="validation_Art_Theory_3", topic_difficulty="Easy"),
        asked("mmmu:2", "What is the ratio?", "['24/7', '3.429']", "24/7", "5",
              read=["24/7", "3.429"], groups={"question": "open"}),
        asked("mmmu:3", "Which vessel is it?", "the aorta", "Aorta", "vena cava",
              groups={"question": "open"}),
    ),
    "mmmu_pro": (
        Example("mmmu_pro:1",
                {"prompt": qwen_prompt("How many? (A) 1 (B) 2 (C) 3 (D) 4 (E) 5 (F) 6"),
                 "answer": "F", "subject": "Math"},
                "F", "F", "A", ("1", "2", "3", "4", "5", "6"),
                {"subject": "Math", "discipline": "Science", "question": "multiple choice"}),
    ),
    "mathverse": (
        Example("mathverse:1",
                {"prompt": qwen_prompt("Find x.\nChoices:\nA:30°\nB:45°\nC:60°"), "answer": "C",
                 "problem_version": "Vision Intensive", "subject": "Plane Geometry"},
                "C", "C", "A", ("30°", "45°", "60°"),
                {"version": "Vision Intensive", "subject": "Plane Geometry",
                 "question": "multiple choice"}),
        asked("mathverse:2", "Find the area.", "\\frac{1}{2}", "0.5", "2",
              groups={"question": "open"}),
    ),
    "mathvision": (
        Example("mathvision:1",
                {"prompt": qwen_prompt("Which part is black?\nChoices: A. half\nB. a third"),
                 "answer": "A", "level": 3},
                "A", "A", "B", ("half", "a third"),
                {"level": "3", "question": "multiple choice"}),
        asked("mathvision:2", "Which vertex is the centre?", "P", "P", "Q",
              groups={"question": "open"}),
    ),
    "wemath": (
        fruit("wemath:1", {"step": "2steps_1", "concept": "Area of a square"}, key="2steps_1",
              **{"knowledge concept": "Area of a square"}),
    ),
    "visulogic": (
        Example("visulogic:1",
                {"prompt": qwen_prompt("Which figure comes next, A, B, C or D?"), "answer": "d",
                 "tag": "Quantitative Reasoning"},
                "D", "D", "A", (), {"category": "Quantitative Reasoning"}),
    ),
}  # fmt: skip


def write_images(folder: Path, name: str) -> Files:
    """A JSON file of a benchmark of the released files, media paths below the data set's folder."""
    records = []
    for i, example in enumerate(IMAGES[name]):
        path = f"bench_image_folder/{name}/{i}.{'jpg' if i % 2 else 'png'}"
        write_png(folder / path, (40 + i, 30))
        records.append({"image": path if i % 2 else [path], **example.record})
    file = folder / "json_file" / f"{name}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(records))
    return Files((file,), folder)


# --- videos -----------------------------------------------------------------------------------


def write_tsv(file: Path, records: list[Record]) -> Path:
    """A table as VLMEvalKit writes it."""
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(records[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(records)
    return file


VIDEO_MME = {
    "question_id": "001-1",
    "videoID": "fFjv93ACGo8",
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Humanity & History",
    "task_type": "Counting Problem",
    "question": "How many candles are there?",
    "options": ["A. None.", "B. Two.", "C. Three.", "D. Nine."],
    "answer": "C",
}
SUBTITLES = (
    "1\n00:00:00,500 --> 00:00:01,000\n<i>There are</i>\nthree candles.\n\n"
    "2\n00:00:01,000 --> 00:00:02,000\n{\\an8}There are three candles.\n\n"
    "3\n00:00:02,000 --> 00:00:03,000\nYes.\n"
)


def write_videomme(folder: Path) -> Files:
    """The data set's Parquet file, VLMEvalKit's table, and subtitles of one of two videos."""
    write_mp4(folder / "data" / "fFjv93ACGo8.mp4")
    write_mp4(folder / "video" / "abc.mp4")
    parquet = folder / "test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([VIDEO_MME]), parquet)
    row = {k: v for k, v in VIDEO_MME.items() if k not in ("question_id", "videoID", "options")}
    row |= {"index": 0, "video": "abc", "video_path": "./video/abc.mp4", "duration": "long"}
    row |= {"candidates": str(VIDEO_MME["options"]), "answer": "A"}
    table = write_tsv(folder / "Video-MME.tsv", [row])
    (folder / "subtitle").mkdir()
    (folder / "subtitle" / "fFjv93ACGo8.srt").write_text(SUBTITLES)
    return Files((parquet, table), folder, folder / "subtitle")


def write_mvbench(folder: Path) -> Files:
    """The JSON files of two tasks, one with clips and one with frames, and another's table."""
    write_mp4(folder / "video/star/Charades_v1_480/ZS9XR.mp4", 20)
    write_mp4(folder / "video/FunQA_test/test/H_H_1.mp4")
    frames = folder / "video/tvqa/frames_fps3_hq/friends_s03"
    frames.mkdir(parents=True)
    for i, frame in enumerate(moving_square(12), 1):
        Image.fromarray(frame).save(frames / f"{i:05d}.jpg")
    shared = {"question": "What happened?", "candidates": ["He ran.", "He sat.", "He fell."]}
    clip = {"video": "ZS9XR.mp4", **shared, "answer": "He sat.", "start": 0.5, "end": 1.5}
    scene = {"video": "friends_s03", **shared, "answer": "He fell.", "start": 1.0, "end": 3.0}
    (folder / "json").mkdir()
    (folder / "json" / "action_sequence.json").write_text(json.dumps([clip]))
    (folder / "json" / "episodic_reasoning.json").write_text(json.dumps([scene]))
    row = {
        "task_type": "Unexpected Action",
        "prefix": "video/FunQA_test/test/",
        "data_type": "video",
        "bound": False,
        "start": "",
        "end": "",
        "video": "H_H_1.mp4",
        **shared,
        "answer": "He ran.",
        "candidates": str(shared["candidates"]),
        "index": 7,
    }
    write_tsv(folder / "MVBench.tsv", [row])
    names = ("json/action_sequence.json", "json/episodic_reasoning.json", "MVBench.tsv")
    return Files(tuple(folder / name for name in names), folder)


def write_mmvu(folder: Path) -> Files:
    """The data set's JSON: a question with choices and one without."""
    write_mp4(folder / "videos/Chemistry/0.mp4")
    write_mp4(folder / "videos/Computer_Science/0.mp4")
    address = "https://example.org/MMVU/resolve/main/videos/Chemistry/0.mp4"
    records = [
        {
            "id": "validation_1",
            "video": address,
            "question_type": "multiple-choice",
            "metadata": {"subject": "Chemistry", "knowledge": []},
            "question": "How many grams of precipitate are there?",
            "choices": {"A": "10.0", "B": "5.0", "C": "12.0", "D": "15.0", "E": "20.0"},
            "answer": "A",
        },
        {
            "id": "validation_2",
            "video": "videos/Computer_Science/0.mp4",
            "question_type": "open-ended",
            "metadata": {"subject": "Computer Science"},
            "question": "What is the algorithm used in the video?",
            "choices": dict.fromkeys("ABCDE", ""),
            "answer": "Depth-First Search (DFS)",
        },
    ]
    (folder / "validation.json").write_text(json.dumps(records))
    return Files((folder / "validation.json",), None)


def write_mmbench_video(folder: Path) -> Files:
    """The data set's table."""
    write_mp4(folder / "video/eq38_0.mp4")
    rows = [
        {
            "index": i,
            "video": "eq38_0",
            "video_type": "Science",
            "question": "What is shown?",
            "answer": "A volcano that erupts.",
            "dimensions": dimensions,
            "video_path": "./video/eq38_0.mp4",
        }
        for i, dimensions in enumerate(["['Video Topic', 'OCR']", "['Causal Reasoning']"])
    ]
    return Files((write_tsv(folder / "MMBench-Video.tsv", rows),), None)


def write_tomato(folder: Path) -> Files:
    """The JSON of one kind of reasoning, as the authors' repository has it in `data/`."""
    write_mp4(folder / "videos/object/0731-00.mp4")
    record = {
        "question": "Which musical instrument sounds last?",
        "options": ["Cello.", "None of them produces any sound.", "Flute.", "Violin."],
        "answer": 2,
        "video_source_url": "",
        "motion_type": "visual cues",
        "variation": {"counterfactual": 0, "composite": 1, "zoom": 1, "first_person": 0},
        "demonstration_type": "object",
        "note": "",
        "key": "0731-00",
    }
    (folder / "data").mkdir()
    (folder / "data/visual_cues.json").write_text(json.dumps({"0": record}))
    return Files((folder / "data/visual_cues.json",), folder)


def write_timelens(folder: Path) -> Files:
    """The JSON of one data set: a video with two queries."""
    write_mp4(folder / "videos/charades/3MSZA.mp4")
    record = {
        "duration": 30.96,
        "spans": [[24.3, 30.4], [2.0, 8.0]],
        "queries": ["A person turns a light on.", "a person sits  down"],
    }
    (folder / "charades-timelens.json").write_text(json.dumps({"3MSZA": record}))
    return Files((folder / "charades-timelens.json",), None)


VIDEO_FILES: dict[str, Callable[[Path], Files]] = {
    "videomme": write_videomme,
    "mvbench": write_mvbench,
    "mmvu": write_mmvu,
    "mmbench_video": write_mmbench_video,
    "tomato": write_tomato,
    "timelens": write_timelens,
}
_CANDLES = ("None.", "Two.", "Three.", "Nine.")
_DEEDS = ("He ran.", "He sat.", "He fell.")
_KINDS = {
    "domain": "Knowledge",
    "category": "Humanity & History",
    "task": "Counting Problem",
}
VIDEOS: dict[str, tuple[Example, ...]] = {
    "videomme": (
        Example("001-1", {}, "C", "C", "A", _CANDLES, {"duration": "short", **_KINDS}),
        Example("0", {}, "A", "A. None.", "B", _CANDLES, {"duration": "long", **_KINDS}),
    ),
    "mvbench": (
        Example("action_sequence:1", {}, "B", "(B) He sat.", "(A)", _DEEDS,
                {"task": "action sequence"}),
        Example("episodic_reasoning:1", {}, "C", "He fell.", "B", _DEEDS,
                {"task": "episodic reasoning"}),
        Example("7", {}, "A", "A", "C", _DEEDS, {"task": "unexpected action"}),
    ),
    "mmvu": (
        Example("validation_1", {}, "A", "The answer is A.", "B",
                ("10.0", "5.0", "12.0", "15.0", "20.0"),
                {"subject": "Chemistry", "discipline": "Science",
                 "question type": "multiple choice"}),
        Example("validation_2", {}, "Depth-First Search (DFS)", "DFS", "BFS", (),
                {"subject": "Computer Science", "discipline": "Engineering",
                 "question type": "open"}, judged=True),
    ),
    "mmbench_video": (
        Example("0", {}, "A volcano that erupts.", "A volcano", "A lake", (),
                {"category": "Science"}, judged=True),
        Example("1", {}, "A volcano that erupts.", "A volcano", "A lake", (),
                {"category": "Science"}, judged=True),
    ),
    "tomato": (
        Example("visual_cues:0", {}, "C", "Answer is:C", "D",
                ("Cello.", "None of them produces any sound.", "Flute.", "Violin."),
                {"reasoning": "visual_cues", "demonstration": "object", "motion": "visual cues",
                 "variation": "composite, zoom"}),
    ),
    "timelens": (
        Example("charades-timelens:3MSZA#0", {}, (24.3, 30.4), "From 24.3 to 30.4 seconds",
                "From 1 to 3 seconds", (), {"dataset": "charades-timelens"}),
        Example("charades-timelens:3MSZA#1", {}, (2.0, 8.0), "From 2 to 8 seconds",
                "From 9 to 12 seconds", (), {"dataset": "charades-timelens"}),
    ),
}  # fmt: skip


def write_files(folder: Path, name: str) -> Files:
    """The benchmark's files, written below `folder`."""
    return write_images(folder, name) if name in IMAGES else VIDEO_FILES[name](folder)


EXAMPLES = IMAGES | VIDEOS


def read(name: str, files: Files) -> tuple[list[Item], list[Broken]]:
    """The items of the files and their broken rows."""
    rows = list(benchmarks()[name].read(files))
    items = [row for row in rows if isinstance(row, Item)]
    return items, [row for row in rows if isinstance(row, Broken)]
