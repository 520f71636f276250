"""The stages with scripted servers: what must be kept is kept, at the rule's exact limits."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from caprl_native.config.cli import load
from caprl_native.curation import rows, rule
from caprl_native.curation.config import CurationConfig, FilterConfig
from caprl_native.curation.curate_cli import main
from caprl_native.curation.prompts import NONE_OF_THE_ABOVE_CHINESE
from caprl_native.curation.rounds import is_chinese, permutations, rounds_of
from caprl_native.curation.tally import Tally
from caprl_native.data.formats import parse_record
from caprl_native.data.records import read_records
from caprl_native.testing.chat_server import ChatServer, Reply, serve
from caprl_native.testing.media_files import moving_square, write_mp4

# Question: (rounds of four that are right with the picture, and without it)
PLAN = {
    "Which shape is in the middle?": (4, 0),
    "What colour do bananas have?": (4, 4),
    "How many dots are there?": (3, 0),
    "What is in the corner?": (4, 1),
    "Which side is dark?": (0, 0),
}
RIGHT = {question: f"right {i}" for i, question in enumerate(PLAN)}


def written(questions: Mapping[str, Any] = PLAN) -> str:
    parts = []
    for i, question in enumerate(questions):
        options = [RIGHT[question], f"wrong {i}a", f"wrong {i}b", f"wrong {i}c"]
        lines = [f"   - {letter}) {text}" for letter, text in zip("ABCD", options, strict=True)]
        parts.append("\n".join([f"#### {i + 1}. **{question}**", *lines, "**Answer:** A"]))
    return "\n------\n".join([*parts, "#### 6. **What is missing?**\n   - A) an answer"])


def text_of(request: Mapping[str, Any]) -> tuple[str, bool]:
    """The user's text, and whether a picture comes with it."""
    content = request["messages"][-1]["content"]
    if isinstance(content, str):
        return content, False
    texts = [part["text"] for part in content if part["type"] == "text"]
    return "\n".join(texts), any(part["type"] == "image_url" for part in content)


class Solver:
    """Right as often as the plan says, round by round."""

    def __init__(self) -> None:
        self.lock, self.asked = threading.Lock(), Counter[tuple[str, bool, str]]()
        self.places: list[tuple[str, bool, str]] = []

    def __call__(self, request: Mapping[str, Any]) -> Reply:
        text, seen = text_of(request)
        question = next(q for q in PLAN if q in text)
        labels = dict(re.findall(r"^([A-E])\) (.*)$", text, re.MULTILINE))
        right = next(letter for letter, t in labels.items() if t == RIGHT[question])
        picture = json.dumps(request["messages"][-1]["content"])[-40:] if seen else ""
        with self.lock:
            self.places.append((question, seen, right))
            number = self.asked[question, seen, picture]
            self.asked[question, seen, picture] += 1
        most = PLAN[question][0 if seen else 1]
        wrong = next(letter for letter in "ABCD" if letter != right)
        return Reply(text=right if number % 4 < most else f"I think {wrong}")


@contextmanager
def world(
    tmp_path: Path, names: list[str], *, writer: Any = None, solver: Any = None
) -> Iterator[tuple[list[str], ChatServer, ChatServer]]:
    """The command line of a run on pictures; those whose names end in "copy" are alike."""
    folder = tmp_path / "media"
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        colour = (0, 0, 0) if name.endswith("copy") else (20 * i + 20, 99, 30)
        Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
    write = writer or (lambda request: Reply(text=written()))
    with serve(write) as writes, serve(solver or Solver()) as solves:
        words = [f"--input.files=['{folder}']", f"--output.dir={tmp_path / 'out'}"]
        words += [f"--writer.endpoint={writes.url}", "--writer.model=w", "--run.progress=false"]
        words += [f"--solver.endpoint={solves.url}", "--solver.model=s", "--solver.concurrency=1"]
        words += ["--writer.retries=0", "--solver.retries=0"]
        yield words, writes, solves


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_what_is_kept_is_known(tmp_path: Path) -> None:
    solver = Solver()
    with world(tmp_path, ["one", "two"], solver=solver) as (words, writes, solves):
        assert main(words) == 0
        assert len(writes.requests) == 2 and len(solves.requests) == 2 * 5 * 8
        assert main(words) == 0  # nothing is asked twice
        assert len(writes.requests) == 2 and len(solves.requests) == 2 * 5 * 8
    request = writes.requests[0]
    assert request["temperature"] == 0.1 and request["repetition_penalty"] == 1.05
    assert "Write 5 questions" in request["messages"][0]["content"][0]["text"]
    assert all("None of the above" in text_of(r)[0] for r in solves.requests)
    out = tmp_path / "out"
    records = read_records([str(out / "train-00000-of-00001.parquet")])
    assert len(records) == 2
    for sample in records:
        (question,) = sample.questions
        assert question.question == "Which shape is in the middle?"
        assert question.choices[question.answer] == "right 0"
        assert sample.media[0].data and sample.modality == "image"
    figures = json.loads((out / "report.json").read_text())
    assert figures["verdicts"] == {
        rule.KEPT: 2, rule.GUESSED: 4, rule.NOT_SEEN: 4,
    }  # fmt: skip
    assert figures["steps"]["questions written"] == 12 and figures["rejected"] == {
        "fewer options than asked": 2
    }
    assert figures["right_with_media_by_right_without"][3][0] == 2
    for rounds in (q["rounds"] for a in lines(out / "answers.jsonl") for q in a["questions"]):
        for kind in ("media", "text"):
            orders = [its["permutation"] for its in rounds if its["kind"] == kind]
            assert sorted(order.index(0) for order in orders) == [0, 1, 2, 3]


def test_equal_files_are_asked_about_once_and_are_two_rows(tmp_path: Path) -> None:
    with world(tmp_path, ["a_copy", "b_copy"]) as (words, writes, solves):
        assert main([*words, "--output.format=jsonl", "--output.embed=false"]) == 0
        assert len(writes.requests) == 1 and len(solves.requests) == 5 * 8
    found = lines(tmp_path / "out/train-00000-of-00001.jsonl")
    assert [Path(row["image"]).name for row in found] == ["a_copy.png", "b_copy.png"]
    sample = parse_record(found[0], kind="questions", source="x:1", default_id="", media_root="")
    assert sample.messages[0]["content"][0] == {"type": "image"}
    assert found[0]["visual_accuracy"] == [1.0] and found[0]["text_accuracy"] == [0.0]
    assert (found[0]["writer"], found[0]["solver"]) == ("w", "s")


def test_lost_requests_are_asked_again_by_the_next_run_and_bad_files_are_listed(
    tmp_path: Path,
) -> None:
    calls = Counter[str]()

    def flaky(request: Mapping[str, Any]) -> Reply:
        calls["all"] += 1
        return Reply(status=429) if calls["all"] == 1 else Reply(text=written())

    with world(tmp_path, ["one", "two"], writer=flaky) as (words, writes, _):
        (tmp_path / "media/three.png").write_bytes(b"\x89PNG no picture")
        words = [*words, "--run.chunk=1", "--writer.concurrency=1"]
        assert main([*words, "--stage", "generate"]) == 3
        assert len(lines(tmp_path / "out/generated.jsonl")) == 1
        assert main(words) == 3 and len(writes.requests) == 3
    out = tmp_path / "out"
    (failed,) = lines(out / "generated.failed.jsonl")
    assert failed["id"].endswith("three.png") and failed["reason"].startswith("media: ")
    assert json.loads((out / "report.json").read_text())["steps"]["rows in the output"] == 2


def test_a_data_set_is_checked_once_more(tmp_path: Path) -> None:
    with world(tmp_path, ["one", "two"]) as (words, writes, _):
        assert main(words) == 0
        asked = len(writes.requests)
        file = str(tmp_path / "out/train-00000-of-00001.parquet")
        again = [*words, "--recheck", file, "--out", str(tmp_path / "again")]
        assert main([*again, "--solver.rounds=8"]) == 0
        assert len(writes.requests) == asked
    records = read_records([str(tmp_path / "again/train-00000-of-00001.parquet")])
    assert len(records) == 2 and records[0].media[0].data
    table = lines(tmp_path / "again/answers.jsonl")
    assert len(table[0]["questions"][0]["rounds"]) == 16


def test_a_second_solver_has_to_agree(tmp_path: Path) -> None:
    guesses = lambda request: Reply(text="E")  # noqa: E731
    with (
        serve(guesses) as second,
        world(tmp_path, ["one"]) as (words, _, _),
    ):
        words += [f"--solver2.endpoint={second.url}", "--solver2.model=t"]
        assert main(words) == 0
    figures = json.loads((tmp_path / "out/report.json").read_text())
    assert rule.KEPT not in figures["verdicts"] and figures["steps"]["rows in the output"] == 0


def test_shards_have_all_inputs_between_them(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(9)]
    with world(tmp_path, names) as (words, _, _):
        for k in range(2):
            assert main([*words, "--shard", f"{k}/2", "--stage=generate"]) == 0
    found = [
        line["id"]
        for k in range(2)
        for line in lines(tmp_path / f"out/shard-0000{k}-of-00002/generated.jsonl")
    ]
    assert len(found) == len(set(found)) == 9


def test_hostile_text_is_dead_on_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x00\u202e"
    text = f"1. {evil}?\nA) x\nB) {evil}\nC) y\nAnswer: A"
    with world(tmp_path, ["one"], writer=lambda r: Reply(text=text)) as (words, _, _):
        assert main([*words]) == 0
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "\u202e" not in page
    assert page.count("data:image/jpeg") == 1
    assert "<script" not in (tmp_path / "out/report.md").read_text("utf-8")


def shares(right: int, of: int, without: int) -> rule.Shares:
    return {"media": rule.Share(right, of), "text": rule.Share(without, of)}


@pytest.mark.parametrize(
    ("right", "without", "of", "expected"),
    [
        (4, 0, 4, rule.KEPT), (3, 0, 4, rule.NOT_SEEN), (4, 1, 4, rule.GUESSED),
        (3, 1, 4, rule.BOTH), (7, 1, 8, rule.KEPT), (6, 1, 8, rule.NOT_SEEN),
        (7, 2, 8, rule.GUESSED), (8, 0, 10, rule.KEPT),
    ],
)  # fmt: skip
def test_limits_are_strict_and_exact(right: int, without: int, of: int, expected: str) -> None:
    assert rule.verdict("Who?", [shares(right, of, without)], FilterConfig()) == expected


def test_decimal_limits_are_what_is_written() -> None:
    config = FilterConfig(visual_above=0.7, text_below=0.3)
    assert rule.verdict("Who?", [shares(7, 10, 0)], config) == rule.NOT_SEEN
    assert rule.verdict("Who?", [shares(8, 10, 3)], config) == rule.GUESSED


def test_long_questions_and_missing_rounds() -> None:
    config = FilterConfig(max_per_question_words=3)
    assert rule.verdict("one two three four", [shares(4, 4, 0)], config) == rule.LONG
    assert rule.verdict("one two", [None], config) == rule.MISSING
    assert rule.shares([{"kind": "media", "failure": "x"}]) is None
    assert rule.words("\u56fe\u91cc\u6709\u4ec0\u4e48") == 5
    assert rule.words("What does the sign \u51fa\u53e3 say?") == 7


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("图里有什么？", True),
        ("图中的 logo 是什么？", True),
        ("“EXIT ONLY” 旁边是什么？", True),
        ("What does the sign 出口 say?", False),
        ('What does "禁止停车" mean?', False),
        ("What?", False),
    ],
)
def test_a_question_that_quotes_chinese_is_not_chinese(question: str, expected: bool) -> None:
    assert is_chinese(question) == expected
    shown = rounds_of(question, ["a", "b"], 0, 1, "both", 0)[0].shown
    assert (shown.choices[-1] == NONE_OF_THE_ABOVE_CHINESE) == expected


def test_questions_that_are_too_long_are_not_counted_as_answered() -> None:
    tally = Tally()
    for verdict in (rule.KEPT, rule.GUESSED, rule.NOT_SEEN, rule.LONG, rule.MISSING):
        tally.judged(verdict, [shares(4, 4, 0)])
    assert dict(tally.steps())["answered in all rounds"] == 3


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_each_choice_stands_once_in_each_place(count: int) -> None:
    orders = permutations(count, 2 * count, 0, "media", "question")
    for cycle in (orders[:count], orders[count:]):
        for choice in range(count):
            assert sorted(order.index(choice) for order in cycle) == list(range(count))
    assert permutations(count, count, 0, "x") == permutations(count, 2 * count, 0, "x")[:count]
    assert len({tuple(permutations(count, 1, 0, str(i))) for i in range(50)}) > 1


@pytest.mark.parametrize(
    ("offered", "media", "text"), [("both", 5, 5), ("image", 5, 4), ("neither", 4, 4)]
)
def test_none_of_the_above(offered: Any, media: int, text: int) -> None:
    rounds = rounds_of("What?", ["a", "b", "c", "d"], 2, 4, offered, 0)
    assert {len(r.shown.choices) for r in rounds if r.kind == "media"} == {media}
    assert {len(r.shown.choices) for r in rounds if r.kind == "text"} == {text}
    orders = {k: [r.order for r in rounds if r.kind == k] for k in ("media", "text")}
    assert orders["media"] == orders["text"]
    for r in rounds:
        assert r.shown.choices["ABCDE".index(r.shown.answer)] == "c"
        assert r.read("Answer")["letter"] is None  # an A inside a word is none
        assert r.read(f" {r.shown.answer}.")["right"]


def test_letters_of_the_output_are_even() -> None:
    letters = Counter(
        rows.truth(
            {"question": f"q{i}", "choices": ["one", "two", "six", "ten"], "answer": 0}, 0, True
        )["answer"]
        for i in range(2000)
    )
    assert all(430 < letters[letter] < 570 for letter in "ABCD")


def test_choices_that_are_letters_can_be_read_back() -> None:
    for right in range(4):
        question = {"question": "Which?", "choices": ["B", "A", "X", "Q"], "answer": right}
        for seed in range(8):
            row = {
                "image": "x.png",
                "reward_model": {"ground_truth": [rows.truth(question, seed, True)]},
            }
            sample = parse_record(row, kind="questions", source="", default_id="x", media_root="")
            (read,) = sample.questions
            assert read.choices[read.answer] == question["choices"][right]


def test_the_recipes_load_and_have_the_published_figures() -> None:
    config = load(CurationConfig, ["curate.toml"])
    assert (config.writer.questions, config.writer.choices, config.solver.rounds) == (5, 4, 4)
    assert (config.filter.visual_above, config.filter.text_below) == (0.75, 0.25)
    assert load(CurationConfig, ["curate_demo.toml"]).solver.path == "demo_models/policy"


def test_videos_are_asked_about_order_and_stay_paths(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    write_mp4(folder / "v.mp4", moving_square(8), fps=4)
    text = "1. What happens at 09:30?\nA) a\nB) b\nC) c\nD) d\nAnswer: A\n\n" + written()
    with world(tmp_path, [], writer=lambda r: Reply(text=text)) as (words, writes, solves):
        assert main([*words, "--writer.time_share=0.4"]) == 0
    system = writes.requests[0]["messages"][0]["content"][0]["text"]
    assert "At least 2 of the 5 questions" in system and "mm:ss" in system
    frames = [p for p in writes.requests[0]["messages"][1]["content"] if p["type"] == "image_url"]
    assert len(frames) >= 2
    figures = json.loads((tmp_path / "out/report.json").read_text())
    assert figures["rejected"]["time beyond the video's end"] == 1
    (sample,) = read_records([str(tmp_path / "out/train-00000-of-00001.parquet")])
    assert sample.modality == "video" and sample.media[0].path == str(folder / "v.mp4")


def test_settings_that_cannot_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ([], "input.files: no input"),
        (["--input.files=['x.png']"], "writer.path: no model"),
        (["--input.shard=2/2"], "k from 0 to m - 1"),
        (["--stage=generate", "--recheck=x.jsonl"], "run.recheck"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_stages_alone_need_those_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with world(tmp_path, ["one"]) as (words, _, _):
        with pytest.raises(SystemExit):
            main([*words, "--stage=answer"])
        assert "questions.jsonl: is not there; run the stage before" in capsys.readouterr().err
        for stage in ("generate", "extract", "answer", "filter"):
            assert main([*words, f"--stage={stage}"]) == 0
        assert main([*words, "--status"]) == 0
    assert "1 done, 0 failed" in capsys.readouterr().out
    assert CurationConfig().folder == Path("outputs/curation/qa")
