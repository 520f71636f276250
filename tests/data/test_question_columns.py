"""Columns with a number per question: which questions are left, and how often they are drawn."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caprl_native import registry
from caprl_native.config.load import load
from caprl_native.config.media import MediaConfig
from caprl_native.config.rules import check, check_sft
from caprl_native.config.schema import Config, DataConfig, SftConfig
from caprl_native.config.toml import ConfigError
from caprl_native.data import records as records_module
from caprl_native.data.invalid import Invalid
from caprl_native.data.loader import build_loader
from caprl_native.data.question_columns import QuestionColumns
from caprl_native.data.record_formats import FORMATS
from caprl_native.data.records import DataError, read_records
from caprl_native.registry import load_plugin
from caprl_native.rewards.questions import chosen
from caprl_native.testing.media_files import write_png
from caprl_native.types import Question

BLIND = [[0.0, 0.5], [1.0, 0.75], [0.25, 1.0], [1.0, 0.0]]


def records(**columns: list[Any]) -> list[dict[str, Any]]:
    """Four records of two questions each, with these columns."""
    return [
        {
            "image": f"{i}.png",
            "questions": [
                {"question": f"q{i}{k}", "choices": ["a", "b"], "answer": "A"} for k in "xy"
            ],
        }
        | {name: column[i] for name, column in columns.items()}
        for i in range(4)
    ]


def written(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl") -> str:
    path = folder / f"d.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_questions_that_need_no_caption_are_left_out(tmp_path: Path, caplog, kind: str) -> None:
    file = written(tmp_path, records(blind_accuracy=BLIND), kind)
    found = read_records([file], columns=QuestionColumns(max_blind_accuracy=0.5))
    assert [[q.question for q in s.questions] for s in found] == [["q0x", "q0y"], ["q2x"], ["q3y"]]
    assert [s.id for s in found] == ["d:1", "d:3", "d:4"]
    assert found.place(1).endswith("3") and "leaves out 1 of 4 records" in caplog.text
    again = pickle.loads(pickle.dumps(found))
    assert [s.id for s in again] == ["d:1", "d:3", "d:4"]
    assert len(read_records([file])) == 4  # by default nothing is looked at


def test_ids_that_are_there_twice_follow_what_is_left(tmp_path: Path) -> None:
    rows = [r | {"id": "same"} for r in records(blind_accuracy=BLIND)]
    found = read_records([written(tmp_path, rows)], columns=QuestionColumns(0.5))
    assert [s.id for s in found] == ["same", "same@d.jsonl:3", "same@d.jsonl:4"]


def test_the_loader_delivers_what_is_left(tmp_path: Path) -> None:
    for i in range(4):
        write_png(tmp_path / f"{i}.png")
    file = written(tmp_path, records(blind_accuracy=BLIND))
    found = read_records([file], columns=QuestionColumns(0.5))
    config = DataConfig(batch_size=3, workers=1, shuffle=False)
    loader = build_loader(found, config, MediaConfig(), seed=0, shard=0, num_shards=1)
    try:
        items = next(loader)
    finally:
        loader.close()
    assert [item.sample.id for item in items] == ["d:1", "d:3", "d:4"]
    assert [len(item.sample.questions) for item in items] == [2, 1, 1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, "blind_accuracy: the record has no such column; tools/leak_check.py writes it"),
        ([[0.5]] * 4, "expected a list of 2 numbers, one per question, got 1"),
        ([0.5] * 4, "expected a list of 2 numbers, one per question, got 0.5"),
        ([[0.5, None]] * 4, "blind_accuracy[1]: expected a number of 0 or more, got nothing"),
        ([[0.5, "x"]] * 4, "blind_accuracy[1]: expected a number of 0 or more, got a text"),
        ([[0.5, True]] * 4, "blind_accuracy[1]"),
        ([[-1, 0]] * 4, "blind_accuracy[0]: expected a number from 0 to 1,000,000, got -1"),
        ([[0, 10**400]] * 4, "blind_accuracy[1]: expected a number from 0 to 1,000,000, got 1000"),
        ([[1.0, 0.9]] * 4, "data.max_blind_accuracy leaves no question of any record"),
    ],
)
def test_a_column_that_is_missing_or_does_not_fit_is_an_error(tmp_path, column, message) -> None:
    rows = records() if column is None else records(blind_accuracy=column)
    file = written(tmp_path, rows)
    with pytest.raises(DataError) as raised:
        read_records([file], columns=QuestionColumns(0.5))
    assert message in str(raised.value) and file in str(raised.value)


def test_a_question_that_is_left_out_keeps_its_place_in_the_columns(tmp_path: Path) -> None:
    rows = records(blind_accuracy=BLIND, difficulty=[[0.125, 0.25]] * 4)
    rows[1]["questions"][0]["answer"] = "Z"
    rows[1]["blind_accuracy"] = [None, 0.25]  # which nobody has asked
    file, invalid = written(tmp_path, rows), Invalid("drop", max_share=0.5)
    found = read_records([file], columns=QuestionColumns(0.5, "difficulty"), invalid=invalid)
    asked = [[(q.question, q.weight) for q in s.questions] for s in found]
    assert asked[1] == [("q1y", 0.25)]
    with pytest.raises(DataError, match="expected a list of 2 numbers, one per question, got 1"):
        rows[1]["blind_accuracy"] = [0.25]
        file = written(tmp_path, rows)
        read_records([file], columns=QuestionColumns(0.5), invalid=invalid)


def test_weights_come_with_the_questions_and_change_what_is_resumed(tmp_path: Path) -> None:
    weights = [[0.25, 0.0]] * 4
    file = written(tmp_path, records(difficulty=weights, blind_accuracy=BLIND))
    plain, weighted = (
        read_records([file]),
        read_records([file], columns=QuestionColumns(1, "difficulty")),
    )
    assert [q.weight for q in weighted[0].questions] == [0.25, 0.0]
    assert [q.weight for q in plain[0].questions] == [1.0, 1.0]
    assert plain.contents["questions"] != weighted.contents["questions"]
    assert {**plain.contents, "questions": ""} == {**weighted.contents, "questions": ""}
    both = read_records([file], columns=QuestionColumns(0.5, "difficulty"))
    assert [[q.weight for q in s.questions] for s in both] == [[0.25, 0.0], [0.25], [0.0]]


def test_columns_reach_the_samples_of_other_formats(tmp_path: Path, monkeypatch) -> None:
    list(FORMATS)
    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS._entries))
    monkeypatch.setattr(registry, "PLUGINS", [])
    monkeypatch.setattr(records_module, "PLUGINS", registry.PLUGINS)
    (tmp_path / "paired_format.py").write_text(
        "from caprl_native.data.record_formats import FORMATS, RecordFormat, parse_plain\n"
        "class Paired(RecordFormat):\n"
        "    def matches(self, raw):\n"
        "        return 'paired' in raw\n"
        "    def parse(self, raw, reading):\n"
        "        new = {'choices': ['a', 'b'], 'answer': 'A'}\n"
        "        asked = [{'question': q, **new} for q in raw['paired']]\n"
        "        return parse_plain({'image': raw['image'], 'questions': asked}, reading)\n"
        "FORMATS.add('paired', Paired())\n"
    )
    load_plugin(str(tmp_path / "paired_format.py"))
    rows = [{"image": "a.png", "paired": ["x", "y"], "blind_accuracy": [1, 0]}]
    (sample,) = read_records([written(tmp_path, rows)], columns=QuestionColumns(0.5))
    assert [q.question for q in sample.questions] == ["y"]


# --- drawing ----------------------------------------------------------------------------------


def questions(*weights: float) -> list[Question]:
    return [Question(f"q{i}", ("a", "b"), 0, weight) for i, weight in enumerate(weights)]


def test_draws_follow_the_weights() -> None:
    drawn = chosen(questions(0.25, 0.0, 0.125, 0.125), 40_000, random.Random(0))
    count = Counter(q.question for q in drawn)
    assert count["q1"] == 0
    assert count["q0"] / 40_000 == pytest.approx(0.5, abs=0.01)
    assert count["q2"] / 40_000 == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("weight", [1.0, 0.0, 0.25])
def test_equal_weights_draw_what_was_drawn_without_any(weight: float) -> None:
    ours, rng = random.Random(3), random.Random(3)
    asked = questions(*[weight] * 5)
    names = [q.question for q in chosen(asked, 100, ours)]
    assert names == [rng.choice(asked).question for _ in range(100)]
    assert ours.random() == rng.random()  # the same generator's state for what comes after
    assert {q.weight for q in chosen(asked, 0, ours)} == {1.0}


# --- settings ---------------------------------------------------------------------------------

GIVEN = ["--policy.path", "x", "--data.files", '["d.jsonl"]', "--eval.every", "0"]
READER = ["--reward.reader.path", "r", "--rollout.gpu_memory_utilization", "0.5"]


@pytest.mark.parametrize(
    "setting", [("data.max_blind_accuracy", "0.5"), ("data.question_weights", "difficulty")]
)
def test_where_nothing_asks_questions_they_are_errors(setting: tuple[str, str]) -> None:
    words = [*GIVEN, f"--{setting[0]}", setting[1]]
    check(load(Config, [], [*words, *READER]))
    silent = ["--reward.terms.accuracy.weight", "0", "--reward.terms.length.weight", "1"]
    with pytest.raises(ConfigError, match=f"{setting[0]}.*no term of the reward asks questions"):
        check(load(Config, [], [*words, *silent]))
    sft = [word for word in words if word not in ("--eval.every", "0")]
    with pytest.raises(ConfigError, match=f"{setting[0]}.*supervised training asks no questions"):
        check_sft(load(SftConfig, [], sft))
    words = ["--policy.path", "x", "--data.files", '["d.jsonl"]']
    with pytest.raises(ConfigError, match="invalid_questions: .*supervised training asks none"):
        check_sft(load(SftConfig, [], [*words, "--data.invalid_questions", "drop"]))
