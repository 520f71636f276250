"""What captions become on disk, in each form; chats to train on are trained on as they are."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from caprl_native.captioning.config import Format
from caprl_native.captioning.outputs import write_failures, write_output
from caprl_native.data.listing import Entry
from caprl_native.data.records import read_records
from caprl_native.inference.jobs.chunk import JobResult
from caprl_native.types import MediaRef, Sample


def result(entry: Entry, *texts: str, **flags: bool) -> JobResult:
    captions = [
        {"text": text, "tokens": 3 + i, "finish_reason": "stop", "seed": 7 + i, **flags}
        for i, text in enumerate(texts)
    ]
    return JobResult(entry, {"prompt": "Describe it.", "captions": captions})


IMAGE = Entry("a", (MediaRef("image", "media/a.png"),), {"score": 0.5, "caption": "alt"}, "l:1")
CLIP = Entry("v#1-2", (MediaRef("video", "/data/v.mp4", start=1.0, end=2.0),))
PAIR = Entry("p", (MediaRef("image", "media/a.png"), MediaRef("image", "/b.png")))
FAILED = JobResult(Entry("f", source="l:4"), failure="media: f.png: damaged")
RESULTS = [result(IMAGE, "A cat. 猫"), result(CLIP, "A car."), FAILED, result(PAIR, "Two.")]


def written(path: Path, form: Format, results: list[JobResult] = RESULTS) -> Path:
    assert write_output(path, form, results, "model") == sum(not r.failure for r in results)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = path.read_text("utf-8")
    return list(json.loads(text)) if text[0] == "[" else [*map(json.loads, text.splitlines())]


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_rows(tmp_path: Path, form: Format) -> None:
    image, clip, pair = rows_of(written(tmp_path / f"o.{form}", form))
    expected = {
        "id": "a", "image": "media/a.png", "caption": "A cat. 猫", "tokens": 3,
        "finish_reason": "stop", "model": "model", "prompt": "Describe it.", "seed": 7,
        "truncated": False, "degenerate": False, "score": 0.5, "input_caption": "alt",
    }  # fmt: skip
    assert expected.items() <= image.items()
    assert clip["video"] == "/data/v.mp4" and (clip["start"], clip["end"]) == (1.0, 2.0)
    if form != "parquet":
        assert list(image) == list(expected) and pair["image"] == ["media/a.png", "/b.png"]


def test_several_captions_are_lists(tmp_path: Path) -> None:
    (row,) = rows_of(written(tmp_path / "o.jsonl", "jsonl", [result(IMAGE, "x", "y")]))
    assert row["captions"] == ["x", "y"] and row["seed"] == [7, 8] and row["tokens"] == [3, 4]
    assert "caption" not in row and row["truncated"] == [False, False]


def test_parquet_takes_columns_whose_types_differ(tmp_path: Path) -> None:
    columns: list[dict[str, Any]] = [
        {"n": 1, "odd": 1, "deep": {"x": 1}},
        {"n": 2.5, "odd": "text", "deep": {"y": [1]}},
        {"n": None, "odd": [1], "late": True},
    ]
    results = [result(Entry(f"e{i}", IMAGE.media, c), "x") for i, c in enumerate(columns)]
    rows = rows_of(written(tmp_path / "o.parquet", "parquet", results))
    assert [r["n"] for r in rows] == [1, 2.5, None] and [r["late"] for r in rows] == [
        None,
        None,
        True,
    ]
    assert [r["odd"] for r in rows] == ["1", "text", "[1]"]
    assert rows[1]["deep"]["y"] == [1]


def test_no_results_are_an_empty_output(tmp_path: Path) -> None:
    forms: list[Format] = ["jsonl", "json", "parquet", "llava", "openai"]
    for form in forms:
        path = tmp_path / form / f"o.{form}"
        path.parent.mkdir()
        written(path, form, [FAILED])
        assert form == "jsonl" or rows_of(path) == []


def samples(path: Path) -> list[Sample]:
    records = read_records([str(path)], kind="response")
    return [records[i] for i in range(len(records))]


@pytest.mark.parametrize("name", ["o.json", "o.jsonl"])
@pytest.mark.parametrize("form", ["llava", "openai"])
def test_chats_are_supervised_data(tmp_path: Path, form: Format, name: str) -> None:
    results = [*RESULTS, result(CLIP, "One.", "Two.")]
    assert write_output(tmp_path / name, form, results, "model") == 5
    found = samples(tmp_path / name)
    assert [s.response for s in found] == ["A cat. 猫", "A car.", "Two.", "One.", "Two."]
    assert [s.id for s in found] == ["a", "v#1-2", "p", "v#1-2#0", "v#1-2#1"]
    assert found[1].media == CLIP.media and len(found[2].media) == 2
    for sample in found:
        (turn,) = sample.messages
        text = "".join(p["text"] for p in turn["content"] if p["type"] == "text")
        assert text.strip() == "Describe it."


@pytest.mark.parametrize("form", ["llava", "openai"])
def test_relative_paths_are_found_from_the_output(
    tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.png").write_bytes(b"x")
    (tmp_path / "out").mkdir()
    written(Path("out/o.json"), form)
    path = samples(Path("out/o.json"))[0].media[0].path
    assert path and Path(path).samefile("media/a.png")


def test_half_of_a_surrogate_pair_costs_no_file(tmp_path: Path) -> None:
    (row,) = rows_of(written(tmp_path / "o.jsonl", "jsonl", [result(IMAGE, "bad \ud800")]))
    assert row["caption"] == "bad \ud800"


def test_failures_are_listed_and_an_old_list_goes(tmp_path: Path) -> None:
    path = tmp_path / "o.failed.jsonl"
    assert write_failures(path, RESULTS) == 1
    assert rows_of(path) == [{"id": "f", "source": "l:4", "reason": "media: f.png: damaged"}]
    assert write_failures(path, RESULTS[:2]) == 0 and not path.exists()


@pytest.mark.parametrize("form", ["jsonl", "llava"])
def test_an_output_is_never_held(tmp_path: Path, form: Format) -> None:
    def many() -> Iterator[JobResult]:
        return (result(IMAGE, "x" * 2000) for _ in range(1500))

    write_output(tmp_path / "warm", form, list(many())[:10], "model")
    tracemalloc.start()
    write_output(tmp_path / "o", form, many(), "model")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
