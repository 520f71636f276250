"""The image benchmarks in their authors' own files: small ones of each layout, made here."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from caprl_native.testing.media_files import write_png
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.items import Item, Verdict
from tests.eval.benchmark_files import read

FRUITS = ("an apple", "a pear", "a plum", "a fig")


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


EMBEDDED = {"bytes": png(), "path": "1.png"}
BASE64 = base64.b64encode(png()).decode()
LETTERED = dict(zip("ABCD", FRUITS, strict=True))
LISTED = str(list(FRUITS))
MMSTAR = "What is it?\nOptions: A: an apple, B: a pear, C: a plum, D: a fig"
SEED = {f"choice_{k.lower()}": text for k, text in LETTERED.items()}
WEMATH = "A. an apple; B. a pear; C. a plum; D. a fig"
SHARED = {"question": "What is it?", "answer": "B"}

# Benchmark, file name, records, and of the first item: question, answer, choices, groups.
Layout = tuple[str, str, Any, tuple[Any, ...]]
LAYOUTS: dict[str, Layout] = {
    "chartqa json": ("chartqa", "test/test_human.json",
        [{"imgname": "1.png", "query": "How much?", "label": "14"}], ("How much?", "14", (), {})),
    "chartqa parquet": ("chartqa", "test.parquet",
        [{"question": "How much?", "answer": "14", "type": "human_test", "image": EMBEDDED}],
        ("How much?", "14", (), {"type": "human_test"})),
    "chartqa hub": ("chartqa", "hub.parquet",
        [{"query": "How much?", "label": ["14"], "human_or_machine": 0, "image": EMBEDDED}],
        ("How much?", "14", (), {})),
    "chartqa tsv": ("chartqa", "ChartQA_TEST.tsv",
        [{"index": 1, "image": BASE64, "question": "How much?", "answer": "14",
          "split": "test_human"}], ("How much?", "14", (), {"type": "test_human"})),
    "chartqapro": ("chartqapro", "test.parquet",
        [{"Question": ["How much?", "And when?"], "Answer": ["5", "1999"], "Year": ["NO", "YES"],
          "Question Type": "Conversational", "Paragraph": "About coal.", "image": png()}],
        ("About coal.\n\nQuestion: How much?\nAnswer: 5\n\nAnd when?", "1999", (),
         {"question type": "Conversational"})),
    "charxiv parquet": ("charxiv", "val.parquet",
        [{"reasoning_q": "How many curves?", "reasoning_a": "4", "reasoning_a_type": 4,
          "category": "cs", "figure_path": "images/0.jpg", "image": EMBEDDED}],
        ("How many curves?", "4", (), {"category": "cs", "answer": "number in general"})),
    "charxiv json": ("charxiv", "data/reasoning_val.json",
        {"0": {"figure_id": 0, "query": "How many?", "answer": "4", "inst_category": 4}},
        ("How many?", "4", (), {"answer": "number in general"})),
    "infovqa json": ("infovqa", "val.json",
        {"dataset_name": "infographicVQA", "data": [
            {"questionId": 7, "question": "Who pays?", "image_local_name": "1.png",
             "answers": ["The state", "state"], "answer_type": ["single span"]}]},
        ("Who pays?", ["The state", "state"], (), {"answer type": "single span"})),
    "infovqa tsv": ("infovqa", "InfoVQA_VAL.tsv",
        [{"index": 1, "image": BASE64, "question": "Who pays?", "answer": "['The state']"}],
        ("Who pays?", "The state", (), {})),
    "mmstar": ("mmstar", "mmstar.parquet",
        [{"index": 3, "question": MMSTAR, "image": png(), "answer": "B", "category": "math",
          "l2_category": "geometry"}],
        ("What is it?", "B", FRUITS, {"category": "math", "subcategory": "geometry"})),
    "mmstar tsv": ("mmstar", "MMStar.tsv", [{"index": 3, "image": BASE64, **SHARED, **LETTERED}],
        ("What is it?", "B", FRUITS, {})),
    "seed json": ("seed", "SEED-Bench.json",
        {"question_type": {"Scene": 1}, "questions": [
            {**SHARED, **SEED, "data_id": "1.png", "data_type": "image", "question_id": "9",
             "question_type_id": 5},
            {**SHARED, **SEED, "data_id": "v.mp4", "data_type": "video", "question_id": "10",
             "question_type_id": 11}]},
        ("What is it?", "B", FRUITS, {"category": "5"})),
    "seed parquet": ("seed", "test.parquet",
        [{**SHARED, **SEED, "image": [EMBEDDED], "data_type": "image", "question_id": "9"}],
        ("What is it?", "B", FRUITS, {})),
    "mmmu": ("mmmu", "validation.parquet",
        [{"id": "validation_Accounting_1", "question": "<image 1> What is it?", "options": LISTED,
          "image_1": EMBEDDED, "image_2": {"bytes": png(9), "path": "2.png"}, "image_3": None,
          "answer": "B", "question_type": "multiple-choice", "topic_difficulty": "Easy"}],
        ("[image] What is it?", "B", FRUITS,
         {"subject": "Accounting", "discipline": "Business", "difficulty": "Easy",
          "question": "multiple choice"})),
    "mmmu open": ("mmmu", "validation.parquet",
        [{"id": "validation_Accounting_2", "question": "How much? <image 1>", "options": "[]",
          "image_1": EMBEDDED, "answer": "['24', '24.0']", "question_type": "open"}],
        ("How much? [image]", ["24", "24.0"], (),
         {"subject": "Accounting", "discipline": "Business", "question": "open"})),
    "mmmu_pro": ("mmmu_pro", "standard.parquet",
        [{"id": "test_Math_1", "question": "What is it? <image 1>", "options": LISTED,
          "image_1": EMBEDDED, "answer": "B", "subject": "Math"}],
        ("What is it? [image]", "B", FRUITS,
         {"subject": "Math", "discipline": "Science", "question": "multiple choice"})),
    "mmmu_pro vision": ("mmmu_pro", "vision.parquet",
        [{"id": "test_Math_1", "options": LISTED, "image": EMBEDDED, "answer": "B",
          "subject": "Math"}],
        ("The image shows the question.", "B", FRUITS,
         {"subject": "Math", "discipline": "Science", "question": "multiple choice"})),
    "mathverse": ("mathverse", "testmini.json",
        [{"sample_index": "1", "image": "1.png", "question": "Find x.\nChoices:\nA:30\nB:45",
          "answer": "B", "question_type": "multi-choice", "problem_version": "Vision Intensive",
          "metadata": {"subject": "Plane Geometry", "subfield": "Angle"}}],
        ("Find x.", "B", ("30", "45"),
         {"version": "Vision Intensive", "subject": "Plane Geometry", "subfield": "Angle",
          "question": "multiple choice"})),
    "mathvision": ("mathvision", "test.jsonl",
        [{"id": "1", "question": "Which part? <image1>", "options": list(FRUITS), "answer": "B",
          "image": "images/1.png", "level": 3, "subject": "counting"}],
        ("Which part? [image]", "B", FRUITS,
         {"subject": "counting", "level": "3", "question": "multiple choice"})),
    "mathvision parquet": ("mathvision", "test.parquet",
        [{"id": "1", "question": "Which letter?", "options": list("ABCDE"), "answer": "E",
          "image": "images/1.png", "decoded_image": EMBEDDED}],
        ("Which letter?", "E", (), {"question": "multiple choice"})),
    "wemath": ("wemath", "testmini.parquet",
        [{"ID": "1", "key": "2steps_1", "question number": 1, "knowledge concept": "Area",
          "question": "What is it?", "option": WEMATH, "answer": "B", "image_path": EMBEDDED}],
        ("What is it?", "B", FRUITS, {"step": "2steps_1", "concept": "Area"})),
    "visulogic": ("visulogic", "data.jsonl",
        [{"id": "00000", "image_path": "images/1.png", "question": "Which figure comes next?",
          "label": "D", "tag": "Spatial"}],
        ("Which figure comes next?", "D", (), {"category": "Spatial"})),
}  # fmt: skip


def write(folder: Path, name: str, value: Any) -> Path:
    """The file, with an image wherever one of the layouts looks for it."""
    for place in ("", "test/png", "images", "data/images", "SEED-Bench-image"):
        write_png(folder / place / "1.png", (40, 30))
        write_png(folder / place / "0.jpg", (40, 30))
    path = folder / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(value), path)
    elif path.suffix == ".tsv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(value[0]), delimiter="\t")
            table.writeheader()
            table.writerows(value)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(v) + "\n" for v in value))
    else:
        path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, tmp_path: Path) -> None:
    name, file, value, (question, answer, choices, groups) = LAYOUTS[layout]
    (item,), broken = read(name, Files((write(tmp_path, file, value),), None))
    assert broken == []
    assert (item.question, item.answer, item.choices) == (question, answer, choices)
    assert item.groups == groups
    for medium in item.media:
        assert medium.data or Path(medium.path or "").is_file()
    assert len(item.media) == (2 if layout == "mmmu" else 1)
    chat = benchmarks()[name].chat(item, "A caption.")
    assert "A caption." in chat[-1]["content"] and question in chat[-1]["content"]
    assert right(name, item) == 1.0


def test_a_question_keeps_what_is_no_choice(tmp_path: Path) -> None:
    """Choices written into it are left out of it where they are asked about, and nothing else."""
    menu = "Which of (A) and (B)?\nOptions: A: one, B: two\nThink of both."
    asked = {"question": menu, "answer": "B", "image": "1.png"}
    rows = [asked, {**asked, "answer": "12"}, {**asked, "options": ["one", "two"]}]
    file = write(tmp_path, "f.json", rows)
    items, _ = read("mathvision", Files((file,), None))
    assert [i.question for i in items] == ["Which of (A) and (B)?\nThink of both.", menu, menu]
    assert [i.choices for i in items] == [("one", "two"), (), ("one", "two")]


def right(name: str, item: Item) -> float:
    """The score of the gold."""
    gold = item.answer if isinstance(item.answer, str) else item.answer[0]
    verdict = benchmarks()[name].score(item, gold, "official")
    assert isinstance(verdict, Verdict)
    return verdict.score


def test_a_conversation_is_scored_by_its_last_turn(tmp_path: Path) -> None:
    name, file, value, _ = LAYOUTS["chartqapro"]
    (item,), _ = read(name, Files((write(tmp_path, file, value),), None))
    assert item.extra["years"] == ["YES"]
    verdict = benchmarks()[name].score(item, "1998", "official")
    assert isinstance(verdict, Verdict) and verdict.score < 1.0  # a year must be exact


def test_a_row_may_share_an_earlier_rows_image(tmp_path: Path) -> None:
    rows = [{"index": 1, "image": BASE64, **SHARED, **LETTERED},
            {"index": 2, "image": 1, **SHARED, **LETTERED}]  # fmt: skip
    (one, two), broken = read("mmstar", Files((write(tmp_path, "M.tsv", rows),), None))
    assert broken == [] and one.media[0].data == two.media[0].data == png()


def test_the_references_rule_wants_the_released_prompts(tmp_path: Path) -> None:
    name, file, value, _ = LAYOUTS["mmstar"]
    (item,), _ = read(name, Files((write(tmp_path, file, value),), None))
    with pytest.raises(ValueError, match="boxed answers"):
        benchmarks()[name].score(item, "B", "caprl")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("mmstar", {"image": None}, "image: missing"),
        ("mmstar", {"image": True}, "image: expected an image, got True"),
        ("mmstar", {"image": "https://example.org/a.png"}, "is no local file; download it"),
        ("mmstar", {"image": "../../../../a.png"}, "leads out of"),
        ("mmstar", {"answer": None}, "answer: missing"),
        ("mmstar", {"answer": "F"}, "answer: F is no choice"),
        ("mmmu", {"options": "{}"}, "options: 1 choices"),
        ("chartqapro", {"Question": ["a", "b"], "Answer": ["c"]}, "1 for 2 questions"),
    ],
)
def test_a_broken_row_is_named(name: str, change: dict, reason: str, tmp_path: Path) -> None:
    good = {**SHARED, **LETTERED, "image": "1.png"}
    file = write(tmp_path, "f.json", [{**good, **change}])
    items, (broken,) = read(name, Files((file,), None))
    assert items == [] and reason in broken.reason and broken.source == f"{file}:1"
