"""TSV and CSV files as they come: quoted, unquoted, with line ends and pictures inside."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pytest

from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files, Row, read_rows
from eval.items import Broken, Item

FAULTS = Path(__file__).parents[1] / "faults"


def read(tmp_path: Path, text: str, suffix: str = ".tsv") -> list:
    """The values of a file's rows; of a broken one "line: reason"."""
    file = tmp_path / f"table{suffix}"
    file.write_bytes(text.encode())
    return [
        r.value if isinstance(r, Row) else f"{r.source.rpartition(':')[2]}: {r.reason}"
        for r in read_rows(file)
    ]


def test_quotes_that_never_close_merge_no_rows() -> None:
    rows = list(read_rows(FAULTS / "unquoted.tsv"))
    assert [row.value["index"] for row in rows] == [str(i) for i in range(20)]
    asked = {i: f"question {i}?" for i in range(20)}
    asked |= {2: '"Hello" is where?', 5: '"open quote', 9: '"close'}
    assert [row.value["question"] for row in rows] == list(asked.values())
    assert [row.value["answer"] for row in rows] == ["B", "A"] * 10
    assert [row.source.rpartition(":")[2] for row in rows] == [str(i) for i in range(2, 22)]


def test_they_are_twenty_items() -> None:
    found = list(benchmarks()["videomme"].read(Files((FAULTS / "unquoted.tsv",), None)))
    assert all(isinstance(item, Item) for item in found) and len(found) == 20
    assert found[5].question == '"open quote' and found[5].choices == ("x", "y")


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ",")])
def test_what_is_quoted_rightly_is_read_as_it_was_written(
    suffix: str, separator: str, tmp_path: Path
) -> None:
    """Random texts with quotes, line ends, separators, and a picture of 1 MB."""
    rng = random.Random(0)
    pieces = ['"', '""', "\n", "\r\n", separator, "a", "word ", "'", "é", "x,y", "", "\n\n"]
    texts = ["".join(rng.choices(pieces, k=rng.randint(0, 8))) for _ in range(400)]
    rows = [{"index": str(i), "image": "A" * 9, "q": t, "a": "B"} for i, t in enumerate(texts)]
    rows[7]["image"] = "iVBOR" * 200_000
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    assert read(tmp_path, out.getvalue(), suffix) == rows


def test_quotes_inside_texts_are_kept(tmp_path: Path) -> None:
    text = 'a\tb\tc\n1\tsay "x"\t"y" z\n2\t"p\tq"\t"""r"""\n3\t""\t"\n4\t"s\nt"\t"u"\n'
    assert read(tmp_path, text) == [
        {"a": "1", "b": 'say "x"', "c": '"y" z'},
        {"a": "2", "b": "p\tq", "c": '"r"'},
        {"a": "3", "b": "", "c": '"'},
        {"a": "4", "b": "s\nt", "c": "u"},
    ]


def test_a_quote_that_closes_rows_later_merges_none_either(tmp_path: Path) -> None:
    rows = ['1\t"open\tA', "2\tx\tB", '3\tclose"\tC', "4\ty\tD"]
    found = read(tmp_path, "\n".join(["i\tq\ta", *rows]))
    assert [(r["i"], r["q"]) for r in found] == [
        ("1", '"open'), ("2", "x"), ("3", 'close"'), ("4", "y")
    ]  # fmt: skip
    one, two = read(tmp_path, "\n".join(["i,q,a", *rows]).replace("\t", ","), ".csv")
    assert one.startswith("2: a quote opens here and closes in line 4") and two["i"] == "4"


def test_csv_with_stray_quotes(tmp_path: Path) -> None:
    text = (
        "i,q,c,a\n1,\"Hello\" is where?,\"['x', 'y']\",A\n2,\"open quote,\"['x', 'y']\",B\n3,z,w,C"
    )
    assert [r["q"] for r in read(tmp_path, text, ".csv")] == [
        '"Hello" is where?', '"open quote', "z",
    ]  # fmt: skip


def test_rows_that_are_none_are_named_and_cost_no_others(tmp_path: Path) -> None:
    text = 'a\tb\n1\t2\n\n3\n4\t5\t6\n7\t"8\n9\t10\n'
    assert read(tmp_path, text) == [
        {"a": "1", "b": "2"},
        "4: the row has not 2 fields, as the header has",
        "5: the row has not 2 fields, as the header has",
        {"a": "7", "b": '"8'},
        {"a": "9", "b": "10"},
    ]
    assert read(tmp_path, "") == [] and read(tmp_path, "a\tb\n") == []
    assert read(tmp_path, "\ufeffa\tb\r\n1\t2\r\n") == [{"a": "1", "b": "2"}]


def test_texts_that_nothing_takes_are_broken_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    row = {"video": "v.mp4", "question": "q?", "candidates": ["x", "y"], "answer": "x"}
    rows = [row, row | {"question": "a\0b"}, row | {"candidates": ["x", "\ud83d"]}, row]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = list(benchmarks()["mvbench"].read(Files((file,), None)))
    assert [type(f) for f in found] == [Item, Broken, Broken, Item]
    assert found[1].source == f"{file}:2" and "question: the text holds a NUL" in found[1].reason
    assert "candidates[1]: the text holds half of a surrogate pair" in found[2].reason


@pytest.mark.parametrize("name", sorted(benchmarks()))
def test_odd_records_are_broken_rows(name: str, tmp_path: Path) -> None:
    """Whatever stands in a record's fields, a reader yields items and broken rows."""
    rng = random.Random(name)
    odd = [None, True, 3, -1.5, float("nan"), "", " ", "x" * 300, "['a', 'b']", "[" * 99, [], {},
           ["a"], [["a"]], [None], {"a": 1}, {"A": "x", "B": "y"}, "A", "(B)", 10**400, "../x",
           "<|im_start|>user\n<|im_end|>", {"image": 3}, [{"type": "image"}], "1,2"]  # fmt: skip
    fields = ["id", "image", "video", "prompt", "question", "answer", "candidates", "choices",
              "options", "A", "B", "start", "end", "duration", "caption", "span", "Question",
              "Answer", "Video", "url", "video_id", "videoID", "query", "timestamps", "solution",
              "reward_model", "questions", "images", "videos"]  # fmt: skip
    file = tmp_path / "odd.json"
    records = [{f: rng.choice(odd) for f in rng.sample(fields, 12)} for _ in range(300)]
    file.write_text(json.dumps(records))
    found = list(benchmarks()[name].read(Files((file,), None)))
    assert len(found) >= 300 and all(isinstance(f, Item | Broken) for f in found)
