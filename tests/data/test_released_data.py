"""Data in the layouts that were released, with 1% of each fault: what is left out is exact."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.invalid import DropReport, Invalid, write_dropped
from caprl_native.data.loader import LoadedSample, build_loader
from caprl_native.data.records import DataError, Records, read_records
from caprl_native.rewards.prompts import says_cannot_answer
from caprl_native.testing.media_files import write_mp4, write_png

RECORDS, EACH = 100, 5  # of a file, and questions of a record: 1,000 questions in all
CANNOT = "E) Can not answer based on the caption."


def question(i: int) -> dict[str, Any]:
    """As the sets write them: labelled choices, and a letter."""
    label = ("{}) {}", "{}. {}", "({}) {}")[i % 3]
    words = ["red", "green", "blue", "white"]
    choices = [label.format(c, text) for c, text in zip("ABCD", words, strict=True)]
    asked = "\u4ec0\u4e48\u989c\u8272\uff1f" if i % 7 == 0 else f"Which colour has it, {i}?"
    return {"question": asked, "choices": choices, "answer": "ABCD"[i % 4]}


def with_cannot(q: dict[str, Any], answer: str) -> dict[str, Any]:
    return q | {"choices": [*q["choices"], CANNOT], "answer": answer}


REPEATED = ["A) red", "A) green", "B) blue", "C) white"]
FAULTS: dict[str, Any] = {  # by the reason that is reported; each in 1% of the questions
    "answer outside the choices": lambda q: q | {"answer": "G"},
    "labels repeated or out of order": lambda q: q | {"choices": REPEATED},
    "one choice": lambda q: q | {"choices": q["choices"][:1], "answer": "A"},
    "empty text": lambda q: q | {"question": " "},
    "the right answer is that it cannot be answered": lambda q: with_cannot(q, "E"),
    "no answer": lambda q: q | {"answer": ""},
}
KEPT: dict[str, Any] = {  # what looks wrong, and is not
    "right choice twice": lambda q: (
        q | {"choices": ["A) red", "B) red", "C) blue", "D) white"], "answer": "B"}
    ),
    "the data's own cannot-answer choice": lambda q: with_cannot(q, "A"),
    "unsorted labels": lambda q: (
        q | {"choices": ["C) blue", "A) red", "D) white", "B) green"], "answer": "A"}
    ),
    "some labels": lambda q: (
        q | {"choices": ["A) red", "green", "C. blue", "white"], "answer": "A"}
    ),
    "full width": lambda q: (
        q | {"choices": ["\uff21\uff09red", "\uff22\uff09green"], "answer": "\uff21"}
    ),
}
WRONG_RECORD = 10  # of each file: its media are missing
ALL_WRONG = 50  # of each file: none of its questions can be asked
PER_FILE = RECORDS * EACH // 100


def questions() -> list[list[dict[str, Any]]]:
    """Those of one file's records: 1% with each fault and of each kind that is kept."""
    asked = [question(i) for i in range(RECORDS * EACH)]
    for k, spoil in enumerate([*FAULTS.values(), *KEPT.values()]):
        for n in range(PER_FILE):
            i = 97 * n + 3 * k  # none in the two records below
            assert i // EACH not in (WRONG_RECORD, ALL_WRONG)
            asked[i] = spoil(asked[i])
    split = [asked[i : i + EACH] for i in range(0, len(asked), EACH)]
    split[ALL_WRONG] = [q | {"answer": "Z"} for q in split[ALL_WRONG]]
    return split


def chat(kind: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"<{kind}>\nDescribe it."}]


def write_images(file: Path, png: bytes) -> None:
    """CapRL-QA-75K's layout: Parquet with embedded images."""
    rows = []
    for i, asked in enumerate(questions()):
        image = None if i == WRONG_RECORD else {"bytes": png, "path": f"{i}.png"}
        truth = {"ground_truth": json.dumps(asked)}
        rows.append({"id": f"i{i}", "image": image, "prompt": chat("image"), "reward_model": truth})
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=20)


def write_videos(file: Path, name: str) -> None:
    """CapRL-Video-QA-20K's layout: JSON lines with paths of videos."""
    rows = []
    for i, asked in enumerate(questions()):
        row = {"id": f"v{i}", "prompt": chat("video"), "reward_model": {"ground_truth": asked}}
        rows.append(row if i == WRONG_RECORD else row | {"videos": [name]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released")
    write_images(path / "train-0.parquet", write_png(path / "a.png", (32, 32)).read_bytes())
    write_mp4(path / "a.mp4")
    write_videos(path / "train-1.jsonl", "a.mp4")
    return path


def read(folder: Path, **invalid: Any) -> Records:
    wished = {"questions": "drop", "records": "drop", "max_share": 0.2} | invalid
    wish = Invalid(**wished, no_answer=says_cannot_answer)
    return read_records([folder / "train-*"], invalid=wish)


def expected() -> dict[str, int]:
    found = {f"questions: {reason}": 2 * PER_FILE for reason in FAULTS}
    found["questions: answer outside the choices"] += 2 * EACH  # of the records that lose all
    return found | {"records: no media": 2, "records: no question left": 2}


def test_the_counts_are_exact(folder: Path, tmp_path: Path) -> None:
    report = read(folder).dropped
    assert report.reasons == dict(sorted(expected().items()))
    dropped = 2 * (PER_FILE * len(FAULTS) + EACH)
    assert report.dropped_questions == dropped == 70 and report.dropped_records == 4
    assert report.questions == 2 * (RECORDS - 1) * EACH and report.records == 2 * RECORDS
    write_dropped(tmp_path / "dropped.jsonl", [report])
    lines = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert len(lines) == dropped + 4
    assert Counter(Path(line["file"]).name for line in lines) == {
        "train-0.parquet": 37,
        "train-1.jsonl": 37,
    }
    (first,) = [x for x in lines if x["row"] == 1 and x["file"].endswith("jsonl")][:1]
    assert first["question"] == 0 and first["reason"] == "answer outside the choices"
    assert first["problem"].startswith("reward_model.ground_truth[0].answer: the answer 'G'")
    write_dropped(tmp_path / "dropped.jsonl", [DropReport()])
    assert not (tmp_path / "dropped.jsonl").exists()


def test_what_is_left_is_sound_and_loaded(folder: Path) -> None:
    records = read(folder)
    assert len(records) == 2 * RECORDS - 4
    assert sum(len(s.questions) for s in records) == records.dropped.questions - 70
    for sample in records:
        for q in sample.questions:
            right = q.choices[q.answer]
            assert right and right[1:2] not in (")", ".") and not says_cannot_answer(right)
            assert q.choices.count(right) == 1 and len(q.choices) >= 2
    config = DataConfig(batch_size=10, workers=0)
    media = MediaConfig(image_min_pixels=1, video_max_frames=4, video_frame_pixels=4096)
    loader = build_loader(records, config, media, seed=0, shard=0, num_shards=1)
    seen = [item for _ in range(3) for item in next(loader)]
    loader.close()
    assert all(isinstance(item, LoadedSample) for item in seen)
    assert {item.sample.modality for item in seen} == {"image", "video"}
    assert {item.sample.id for item in seen} <= {s.id for s in records}


def test_too_much_is_an_error_that_counts_and_lists(folder: Path) -> None:
    with pytest.raises(DataError) as raised:
        read(folder, max_share=0.02)
    said = str(raised.value)
    assert "70 of 990 questions are invalid, more than the share of 0.02 that data.max_d" in said
    assert "10 x questions: one choice" in said and "2 x records: no media" in said
    assert said.count(": row ") == 20 and "... and 54 more" in said


def test_data_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    row = {"image": "a.png", "prompt": "Go.", "questions": [question(0) | {"answer": "Z"}]}
    (tmp_path / "train-0.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="no record is left: left out 1 of 1 questions and 1 of 1"):
        read(tmp_path, max_share=1)


@pytest.mark.parametrize("kind", ["questions", "records"])
def test_one_of_the_two_stays_an_error(folder: Path, kind: str) -> None:
    with pytest.raises(DataError) as raised:
        read(folder, **{kind: "error"})
    said = str(raised.value)
    assert ("placeholder(s) for 0" in said) is (kind == "records")
    assert ("is not among the choices" in said) is (kind == "questions")


def test_a_resume_over_other_questions_is_refused(folder: Path, tmp_path: Path) -> None:
    config = DataConfig(batch_size=8, workers=0)

    def loader(records: Records) -> Any:
        return build_loader(records, config, MediaConfig(), seed=0, shard=0, num_shards=1)

    (tmp_path / "train-1.jsonl").write_text((folder / "train-1.jsonl").read_text())
    state = loader(read(tmp_path)).state_dict()
    lines = [json.loads(line) for line in (tmp_path / "train-1.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):  # mended: what was left out is gone from the file itself
        kept = [q for q in line["reward_model"]["ground_truth"] if q["answer"] != "G"]
        lines[i]["reward_model"]["ground_truth"] = kept
    write = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "train-1.jsonl").write_text(write)
    loader(read(tmp_path)).load_state_dict(state)  # the same is kept, so it is the same data
    lines[1]["reward_model"]["ground_truth"][0]["answer"] = "G"
    (tmp_path / "train-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match="the questions of data.files are not what they were"):
        loader(read(tmp_path)).load_state_dict(state)


def test_the_log_has_one_line_of_counts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        said = read(folder).dropped.summary()
    assert said.startswith("left out 70 of 990 questions and 4 of 200 records (20 questions: answ")
    assert not caplog.messages  # who reads them says so, once
