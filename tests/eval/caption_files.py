"""Small files of the caption benchmarks in their authors' layouts, with real media, and a judge."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from caprl_native.testing.chat_server import Reply, Request
from caprl_native.testing.media_files import write_mp4, write_png
from eval.benchmarks.base import Files

Record = dict[str, Any]
MEDIA = ["--media.image_min_pixels=1024", "--media.video_fps=10", "--report.html=false"]


def lines(path: Path, *records: Record) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def asked(question: str, choices: list[str], answer: str, category: str) -> Record:
    fields = {"question": question, "choices": choices, "answer": answer}
    return {**fields, "category": category}


QUESTIONS = {
    "nat_001": [
        asked("What colour is the car?", ["red", "blue", "green"], "red", "Attribute"),
        asked("Is it raining?", ["Yes", "No"], "No", "Scene-Level"),
    ],
    "doc_002": [asked("What is the title?", ["Loss", "Speed"], "Speed", "Content-Level")],
}


def write_captionqa(folder: Path) -> Files:
    """The data set's Parquet file, images embedded in a list."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 0, 0)).save(file, "PNG")
    image = {"bytes": file.getvalue(), "path": "1.png"}
    rows = [{"id": n, "images": [image], "questions": qs} for n, qs in QUESTIONS.items()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "all.parquet")
    return Files((folder / "all.parquet",), None)


def write_captionqa_json(folder: Path) -> Files:
    """The authors' JSON: questions by image; images lie beside it."""
    for name in QUESTIONS:
        write_png(folder / "images" / f"{name}.png")
    (folder / "questions.json").write_text(json.dumps(QUESTIONS))
    return Files((folder / "questions.json",), folder)


def write_vcapsbench(folder: Path) -> Files:
    write_mp4(folder / "videos5k" / "v1.mp4")
    qa = [
        "action*Does the dog run?*Yes",
        "weather* Is it 2*3 degrees? *no",
        "colour*Is it red?*Yes",
    ]
    path = lines(folder / "VCapsBench_100KQA.jsonl", {"video_id": "v1", "qa": qa})
    return Files((path,), folder)


def write_dream1k(folder: Path) -> Files:
    for name in ("7", "8"):
        write_mp4(folder / "video" / f"{name}.mp4")
    records = [
        {
            "idx": int(name),
            "dataset": f"DREAM/{source}",
            "text": {
                "prompt": "<video>\nDescribe.",
                "response": f"Reference {name}: {' '.join(events)}",
            },
            "video_file": "<placeholder>",
            "extra_info": {
                "n_subjects": 1,
                "n_shots": 4,
                "events": events,
                "n_events": len(events),
            },
            "vid": int(name),
        }
        for name, source, events in (
            ("7", "youtube", ["A dog runs.", "A man sits."]),
            ("8", "movie_live_action", ["A cat sleeps."]),
        )
    ]
    return Files((lines(folder / "DREAM-1k.jsonl", *records),), folder)


def write_vdc(folder: Path) -> Files:
    for name in ("a1", "b2"):
        write_mp4(folder / "videos" / f"{name}.mp4")
    about = {"category": "object"}
    camera = lines(
        folder / "VDCScore_qa" / "camera.jsonl",
        {"a1": [{"question": "What shot is it?", "answer": "wide", **about},
                {"question": "How does it move?", "answer": "it pans", **about}]},
        {"b2": [{"question": "What shot is it?", "answer": "close", **about}]},
    )  # fmt: skip
    short = lines(
        folder / "VDCScore_qa" / "short.jsonl",
        {"a1": [{"question": "Who is it?", "answer": "a man", **about}]},
    )
    return Files((camera, short), folder)


def write_capability(folder: Path) -> Files:
    write_png(folder / "data" / "object_color" / "object_color_0.jpg")
    write_mp4(folder / "data" / "videos" / "1.mp4")

    def record(task: str, name: str, annotation: Any, path: str, kind: str = "video") -> Record:
        about = {"annotation": annotation, "task": task, "data_type": kind}
        return {"file_id": name, "file_path": f"data/{path}", **about}

    image = ("object_color/object_color_0.jpg", "image")
    counted = record("dynamic_object_number", "n_0", {"table": 4, "chair": 2}, "videos/1.mp4")
    records = [
        record("object_color", "object_color_0", {"hair": "golden"}, *image),
        counted,
        record("camera_movement", "m_0", "left", "videos/1.mp4"),
        record("event", "event_1", "A dog runs.", "videos/1.mp4"),
        record("action", "event_1", "runs", "videos/1.mp4"),
    ]
    annotations = folder / "annotations"
    return Files(tuple(lines(annotations / f"{r['task']}.jsonl", r) for r in records), None)


WRITERS: dict[str, Callable[[Path], Files]] = {
    "captionqa": write_captionqa,
    "vcapsbench": write_vcapsbench,
    "dream1k": write_dream1k,
    "vdc": write_vdc,
    "capability": write_capability,
}


# --- a judge ----------------------------------------------------------------------------------


def parts(request: Request) -> tuple[str, str, str]:
    """The instruction of a request to a judge, what is asked, and the caption."""
    system, user = (turn["content"] for turn in request["messages"])
    request_text, _, caption = user.partition("\n\nThe caption:\n")
    return system, request_text, re.sub(r"^\| ", "", caption, flags=re.MULTILINE)


def judge(request: Request) -> Reply:
    """A judge that looks for words: what a caption says it says word for word."""
    system, text, caption = parts(request)
    if '"categories"' in system:
        named = [name for name in ("left", "right") if f"pans {name}" in caption]
        return Reply(json.dumps({"categories": named}))
    if '"verdict"' in system:
        thing, _, value = text.partition(": ")[2].partition(": ")
        said = (value or thing).rstrip(".") in caption
        spoken_of = said or thing.split()[-1] in caption
        return Reply(json.dumps({"verdict": 1 if said else -1 if spoken_of else 0}))
    if "list the events" in system:
        return Reply(json.dumps({"events": re.findall(r"A \w+ \w+\.", caption)}))
    if '"relationship"' in system:
        events = re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)
        relations = ["entailment" if event in caption else "neutral" for event in events]
        numbered = [{"number": i, "relationship": r} for i, r in enumerate(relations, 1)]
        return Reply(f"```json\n{json.dumps({'events': numbered})}\n```")
    if '"match"' in system:
        right, other = re.findall(r"(?:Right|Other) answer: (.*)", text)
        same = right == other
        return Reply(json.dumps({"match": "yes" if same else "no", "grade": 5 if same else 1}))
    if "Unanswerable" in system:
        found = re.search(rf"{re.escape(text.partition(': ')[2])} (\w+)\.", caption)
        return Reply(f"{found[1]}, it says so." if found else "Unanswerable")
    if "few words" in system:  # VDC's answers
        found = re.search(rf"{re.escape(text.partition(': ')[2])} ([\w ]+)\.", caption)
        return Reply(found[1] if found else "It does not tell")
    return Reply(chosen(request["messages"][-1]["content"]))


def chosen(text: str) -> str:
    """The letter of the choice that a caption mentions, else of "Cannot answer", else A."""
    caption, _, question = text.partition("Question:")
    choices = re.findall(r"^([A-Z])\) (.*)$", question, re.MULTILINE)
    said = [letter for letter, choice in choices if f" {choice} " in caption]
    return (said + [letter for letter, choice in choices if "Cannot" in choice] + ["A"])[0]
