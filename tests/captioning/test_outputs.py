"""The files that results become; what trains on captions reads them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from caprl_native.captioning.outputs import write_failures, write_output
from caprl_native.data.formats import parse_record
from caprl_native.data.inputs import Inputs
from caprl_native.data.listing import Entry
from caprl_native.data.records import read_records
from caprl_native.inference.jobs.chunk import JobResult
from caprl_native.types import MediaRef


def result(name: str, *captions: str, kind: Any = "image", **columns: Any) -> JobResult:
    end = "png" if kind == "image" else "mp4"
    made = [
        {"text": text, "tokens": 5, "finish_reason": "stop", "seed": i}
        for i, text in enumerate(captions)
    ]
    entry = Entry(name, (MediaRef(kind, f"/d/{name}.{end}"),), columns, f"list:{name}")
    return JobResult(entry, {"prompt": "Describe it.", "captions": made})


FAILED = JobResult(Entry("bad", source="list:9"), failure="media: broken")
RESULTS = [
    result("a", "One.", score=1),
    FAILED,
    result("b", "Zwei \ud83d\ude00 – 二", kind="video", score=2.5, deep={"x": [1]}),
    result("c", "half \udc00 of a pair"),
]


def written(path: Path, form: Any, results: Sequence[JobResult] = RESULTS) -> list[dict[str, Any]]:
    assert write_output(path, form, results, "model") == len([r for r in results if r.record])
    if form == "parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text("utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_json(tmp_path: Path, form: str) -> None:
    one, two, three = written(tmp_path / f"out.{form}", form)
    assert one == {
        "id": "a",
        "image": "/d/a.png",
        "caption": "One.",
        "tokens": 5,
        "finish_reason": "stop",
        "model": "model",
        "prompt": "Describe it.",
        "seed": 0,
        "truncated": False,
        "degenerate": False,
        "score": 1,
    }
    assert two["video"] == "/d/b.mp4" and two["caption"] == "Zwei 😀 – 二"
    assert two["deep"] == {"x": [1]} and three["caption"] == "half \udc00 of a pair"


def test_an_empty_output_is_one(tmp_path: Path) -> None:
    assert written(tmp_path / "a.json", "json", [FAILED]) == []
    assert written(tmp_path / "a.jsonl", "jsonl", []) == []
    assert written(tmp_path / "a.parquet", "parquet", []) == []


def test_several_captions_are_lists(tmp_path: Path) -> None:
    (row,) = written(tmp_path / "a.jsonl", "jsonl", [result("a", "One.", "Two.")])
    assert row["captions"] == ["One.", "Two."] and row["seed"] == [0, 1] and "caption" not in row


def test_columns_of_the_input_do_not_take_the_place_of_ours(tmp_path: Path) -> None:
    (row,) = written(tmp_path / "a.jsonl", "jsonl", [result("a", "One.", caption="old", alt="x")])
    assert row["caption"] == "One." and row["input_caption"] == "old" and row["alt"] == "x"


def test_parquet_types_are_those_of_all_rows(tmp_path: Path) -> None:
    rows = [*RESULTS[:3], result("d", "Two.", score=None, mixed="text"), result("e", "x", mixed=3)]
    table = written(tmp_path / "a.parquet", "parquet", rows)
    assert [row["score"] for row in table] == [1.0, 2.5, None, None]
    assert [row["mixed"] for row in table] == [None, None, "text", "3"]
    assert table[1]["deep"] == {"x": [1]} and [row["id"] for row in table] == ["a", "b", "d", "e"]


ODD_VALUES: list[tuple[list[Any], list[Any]]] = [
    ([10**40, 1], [str(10**40), "1"]),  # beyond 64 bits
    ([{}, {}], ["{}", "{}"]),  # Parquet has no object without fields
    ([[{}], []], ["[{}]", "[]"]),
    ([2**60 + 1, 0.5], [str(2**60 + 1), "0.5"]),  # beyond a float's digits
    (["bad \udce9", "good"], ["bad ?", "good"]),
]


@pytest.mark.parametrize(("given", "expected"), ODD_VALUES, ids=str)
def test_parquet_takes_whatever_a_list_holds(
    tmp_path: Path, given: list[Any], expected: list[Any]
) -> None:
    rows = [result(f"e{i}", "x", odd=value) for i, value in enumerate(given)]
    table = written(tmp_path / "a.parquet", "parquet", rows)
    assert [row["odd"] for row in table] == expected


@pytest.mark.parametrize("form", ["llava", "openai"])
@pytest.mark.parametrize("end", ["json", "jsonl"])
def test_chats_are_what_supervised_training_reads(tmp_path: Path, form: str, end: str) -> None:
    rows = written(tmp_path / f"a.{end}", form, [RESULTS[0], RESULTS[2]])
    samples = [
        parse_record(row, kind="response", source="f:1", default_id="x", media_root="")
        for row in rows
    ]
    assert [s.id for s in samples] == ["a", "b"]
    assert [s.response for s in samples] == ["One.", "Zwei 😀 – 二"]
    assert [(m.kind, m.path) for s in samples for m in s.media] == [
        ("image", "/d/a.png"), ("video", "/d/b.mp4"),
    ]  # fmt: skip
    assert samples[1].messages[-1]["content"][-1]["text"].strip() == "Describe it."


def test_clips_and_relative_paths_survive_in_chats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    clip = MediaRef("video", "media/v.mp4", start=1.0, end=2.0)
    given = JobResult(Entry("v", (clip,)), result("v", "A car.").record)
    for form in ("llava", "openai"):
        path = Path("out") / f"{form}.json"
        write_output(path, form, [given], "model")  # type: ignore[arg-type]
        (sample,) = (r.sample for r in read_records([str(path)], kind="response").listing())
        (medium,) = sample.media
        assert (medium.start, medium.end) == (1.0, 2.0) and medium.path
        assert Path(medium.path).resolve() == tmp_path / "media/v.mp4"


@pytest.mark.parametrize("form", ["jsonl", "llava"])
def test_an_output_is_not_held(tmp_path: Path, form: Any) -> None:
    def many() -> Iterator[JobResult]:
        return (result("a", "x" * 2000) for _ in range(1500))

    write_output(tmp_path / "warm", form, list(many())[:10], "model")
    tracemalloc.start()
    write_output(tmp_path / "o", form, many(), "model")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_chat_for_each_of_several_captions(tmp_path: Path) -> None:
    write_output(tmp_path / "a.json", "llava", [result("a", "One.", "Two.")], "model")
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["id"] for row in rows] == ["a#0", "a#1"]


def test_an_output_is_an_input_again(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", "jsonl", RESULTS[:3])
    one, two = Inputs([str(tmp_path / "a.jsonl")])
    assert (one.id, two.id) == ("a", "b") and one.columns["caption"] == "One."
    assert two.media == (MediaRef("video", "/d/b.mp4"),)


def test_failures_are_listed_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "failed.jsonl"
    assert write_failures(path, RESULTS) == 1
    assert json.loads(path.read_text()) == {
        "id": "bad",
        "source": "list:9",
        "reason": "media: broken",
    }
    assert write_failures(path, RESULTS[:1]) == 0 and not path.exists()
