"""The leak check, against a real server that knows some answers without having read anything."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caprl_native.curation.leak_check_cli import UNANSWERED, main
from caprl_native.data.invalid import Invalid
from caprl_native.data.question_columns import QuestionColumns
from caprl_native.data.records import DataError, read_records
from caprl_native.testing.chat_server import Reply, Request, serve

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "green", "blue", "black")
AT = ["--reward.reader.path=", "--reward.reader.model", "m", "--reward.reader.endpoint"]
COLUMNS = ["blind_accuracy", "other_accuracy", "accuracy", "difficulty"]


def record(i: int, **more: Any) -> dict[str, Any]:
    """One question that anybody can answer, and one that needs the caption."""
    colour = COLOURS[i % 4]
    questions = [
        {"question": "Which colour, as ever?", "choices": list(COLOURS), "answer": colour},
        {"question": "Which colour?", "choices": list(COLOURS), "answer": "ABCD"[i % 4]},
    ]
    return {"id": f"r{i}", "image": f"{i}.png", "questions": questions, "kept": {"é": [i]}} | more


def knowing(request: Request) -> Reply:
    """Sees what the caption says; knows one question's answer by the number of its choices."""
    text = request["messages"][1]["content"]
    caption = re.search(r"Caption of an image:\n(.*)\n\nQuestion: (.*)", text)
    assert caption
    wanted = next((c for c in COLOURS if c in caption[1]), None)
    if "as ever" in caption[2]:
        wanted = re.findall(r"colour (\w+)", KNOWN["ever"])[0] if KNOWN else wanted
    lettered = dict(re.findall(r"^([A-Z])\) (.*)$", text, re.MULTILINE))
    letter = next((k for k, v in lettered.items() if v == wanted), max(lettered))
    return Reply(f" {letter}")


KNOWN: dict[str, str] = {"ever": "colour red"}


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n\n" for r in records))
    return path


def captions(path: Path, count: int, n: int = 4) -> Path:
    """Half of each sample's captions name its colour."""
    told = [
        {"id": f"r{i}", "rollout": k, "caption": f"a {COLOURS[i % 4]} box" if k % 2 else "a box"}
        for i in range(count)
        for k in range(n)
    ]
    return lines(path, told)


def check(server: str, out: Path, files: list[Path], *more: object, rounds: int = 4) -> int:
    names = json.dumps([str(f) for f in files])
    words = [
        "--out",
        out,
        "--rounds",
        rounds,
        *more,
        "--config",
        "image.toml",
        "--data.files",
        names,
    ]
    words += [
        "--reward.reader.endpoint",
        server,
        "--reward.reader.model",
        "m",
        "--reward.reader.path=",
    ]
    words += ["--log.progress", "false", "--reward.reader.retries", "0"]
    return main(list(map(str, words)))


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))


def test_columns_in_a_copy_of_every_format(tmp_path: Path, capsys) -> None:
    data = [record(i) for i in range(8)]
    files = [lines(tmp_path / "a.jsonl", data[:3])]
    (tmp_path / "b.json").write_text(json.dumps(data[3:6]))
    table = pa.Table.from_pylist(data[6:]).replace_schema_metadata({"mine": "x"})
    pq.write_table(table, tmp_path / "c.parquet", compression="zstd", row_group_size=1)
    files += [tmp_path / "b.json", tmp_path / "c.parquet"]
    told = captions(tmp_path / "told.jsonl", 8)
    with serve(knowing) as server:
        assert check(server.url, tmp_path / "out", files, "--captions", told) == 0
        count = len(server.requests)
        assert check(server.url, tmp_path / "out", files, "--captions", told) == 0
        assert len(server.requests) == count == 8 * 2 * 3 * 4  # nothing is asked twice
    copies = [r for f in files for r in rows(tmp_path / "out" / f.name)]
    assert [{k: v for k, v in r.items() if k not in COLUMNS} for r in copies] == data
    for i, copy in enumerate(copies):
        ever, needs = zip(*(copy[name] for name in COLUMNS[:3]), strict=True)
        assert ever == ((1.0, 1.0, 1.0) if i % 4 == 0 else (0.0, 0.0, 0.0))
        assert needs[0] == 0.0 and needs[2] == 0.5 and copy["difficulty"][1] == 0.25
    others = [copy["other_accuracy"][1] for copy in copies]
    assert min(others) >= 0 and max(others) < 1 and sum(others) / 8 < 0.4
    copied = pq.ParquetFile(tmp_path / "out" / "c.parquet")
    assert copied.metadata.row_group(0).column(0).compression == "ZSTD"
    assert copied.schema_arrow.metadata[b"mine"] == b"x"
    said = capsys.readouterr().out
    assert "blind_accuracy" in said and re.search(r"blind_accuracy +16 +0\.125 +0\.125", said)


def test_what_is_left_out_of_the_data_has_no_entry_and_needs_none(tmp_path: Path, capsys) -> None:
    data = [record(i) for i in range(4)]
    data[1]["questions"][0]["answer"] = "Z"
    del data[2]["image"]
    file = lines(tmp_path / "a.jsonl", data)
    wish = ["--data.invalid_records=drop", "--data.max_dropped_share=0.3"]
    with serve(knowing) as server:
        assert check(server.url, tmp_path / "out", [file], *wish) == 0
        assert len(server.requests) == 5 * 4
    assert "left out 1 of 6 questions and 1 of 4 records" in capsys.readouterr().err
    copies = rows(tmp_path / "out" / "a.jsonl")
    assert [copy["blind_accuracy"] for copy in copies] == [[1, 0], [None, 0], [], [0, 0]]
    invalid = Invalid("drop", "drop", 0.3)
    found = read_records([tmp_path / "out/a.jsonl"], columns=QuestionColumns(0.5), invalid=invalid)
    assert [s.id for s in found] == ["r0", "r1", "r3"]
    assert [len(s.questions) for s in found] == [1, 1, 2]


def test_without_captions_there_is_one_column(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", [record(0), record(1)])
    with serve(knowing) as server:
        assert check(server.url, tmp_path / "out", [file], rounds=2) == 0
        assert all("cannot be answered" in r["messages"][1]["content"] for r in server.requests)
        assert check(server.url, tmp_path / "forced", [file], "--forced", rounds=1) == 0
        assert "cannot be answered" not in server.requests[-1]["messages"][1]["content"]
    assert [r.keys() & set(COLUMNS) for r in rows(tmp_path / "out" / "a.jsonl")] == [
        {"blind_accuracy"}
    ] * 2


def test_captions_in_the_records_count(tmp_path: Path) -> None:
    data = [record(i, caption=f"a {COLOURS[i]} box") for i in range(3)] + [record(3)]
    file = lines(tmp_path / "a.jsonl", data)
    with serve(knowing) as server:
        assert check(server.url, tmp_path / "out", [file], rounds=2) == 0
    found = rows(tmp_path / "out" / "a.jsonl")
    assert [r["accuracy"][1] for r in found] == [1.0, 1.0, 1.0, None]
    assert found[3]["difficulty"] == [None, None] and found[3]["other_accuracy"][1] == 0.0


def test_what_was_not_answered_is_missing_and_asked_by_the_next_check(tmp_path, capsys) -> None:
    file = lines(tmp_path / "a.jsonl", [record(i) for i in range(6)])
    count, lock = iter(range(1000)), threading.Lock()

    def failing(request: Request) -> Reply:
        with lock:
            return Reply(status=400) if next(count) % 5 == 4 else knowing(request)

    with serve(failing) as server:
        assert check(server.url, tmp_path / "out", [file], rounds=2) == UNANSWERED
        assert "have no answer (null in the copies), run it again" in capsys.readouterr().err
        values = [v for r in rows(tmp_path / "out" / "a.jsonl") for v in r["blind_accuracy"]]
        lost = values.count(None)
        assert 0 < lost < 12
        with pytest.raises(DataError, match=r"blind_accuracy\[\d\]: .*run the leak check again"):
            read_records([str(tmp_path / "out/a.jsonl")], columns=QuestionColumns(0.5))
        server.answer, asked = knowing, len(server.requests)
        assert check(server.url, tmp_path / "out", [file], rounds=2) == 0
        assert len(server.requests) - asked == 2 * lost
    values = [v for r in rows(tmp_path / "out" / "a.jsonl") for v in r["blind_accuracy"]]
    assert None not in values


def test_a_check_that_is_killed_goes_on(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", [record(i) for i in range(200)])
    out = tmp_path / "out"
    words = ["--out", out, "--rounds", "1", "--config", "image.toml", "--data.files"]
    words += [json.dumps([str(file)]), "--reward.reader.model", "m", "--reward.reader.path="]
    words += ["--log.progress", "true"]
    count, killed = itertools.count(), threading.Event()

    def slow(request: Request) -> Reply:
        if next(count) > 300:  # the first 256 questions are answered, and kept
            killed.wait(120)
        return knowing(request)

    with serve(slow) as server:
        words += ["--reward.reader.endpoint", server.url]
        command = [sys.executable, str(ROOT / "tools/leak_check.py"), *map(str, words)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        log = out / "leak_check.jsonl"
        while not (log.exists() and log.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        killed.set()
        assert not (out / "a.jsonl").exists()
        assert 0 < log.read_bytes().count(b"\n") < 400
        with log.open("ab") as opened:
            opened.write(b'{"key": "cut sho')
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert "questions" in ended.stderr  # the progress bar
    kept = [json.loads(line)["key"] for line in log.read_text().splitlines()]
    assert len(kept) == len(set(kept)) == 400  # what was answered is not asked again
    assert len(rows(out / "a.jsonl")) == 200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "expected --out DIR"),
        (["--out", "{folder}/out", "--captions", "{folder}/none.jsonl"], "none.jsonl: cannot be"),
        (["--out", "{folder}/out", "--captions", "{folder}/a.jsonl"], "a.jsonl:1: expected an obj"),
        (["--out", "{folder}"], "the copy would take its place"),
        (["--out", "{folder}/out", "--rounds", "0"], "--rounds of 1 or more"),
        (["--out", "{folder}/out", "--reward.reader.model="], "reward.reader.model: expected the"),
        (["--out", "{folder}/out", "--reward.reader.path", "x"], "expected either a model direct"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, capsys, given, message: str) -> None:
    file = lines(tmp_path / "a.jsonl", [record(0)])
    before = file.read_text()
    given = [word.format(folder=tmp_path) for word in given]
    with serve(knowing) as server, pytest.raises(SystemExit) as ended:
        words = ["--config", "image.toml", "--data.files", json.dumps([str(file)])]
        words += [
            "--reward.reader.endpoint",
            server.url,
            "--reward.reader.model",
            "m",
            "--reward.reader.path=",
        ]
        main([*words, "--log.progress", "false", *given])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert file.read_text() == before
