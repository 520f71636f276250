"""What is read out of writers' outputs: a table of real habits, laws, and hostile texts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from caprl_native.curation.extraction import extract
from caprl_native.curation.extraction import raw as reasons
from caprl_native.data.choices import LETTERS

TABLE = Path(__file__).parents[1] / "golden/curation/extraction.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text("utf-8").splitlines()]
OPTIONS = {"choices", "cut_off", "seconds"}


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_the_table(row):
    kept, rejected = extract(row["output"], **{k: v for k, v in row.items() if k in OPTIONS})
    found = [{"question": q.question, "choices": list(q.choices), "answer": q.answer} for q in kept]
    assert found == row["questions"]
    assert [r.reason for r in rejected] == row["rejected"]


def test_the_table_has_all_reasons_and_no_form_twice():
    named = {name for row in ROWS for name in row["rejected"]}
    all_reasons = {v for k, v in vars(reasons).items() if k.isupper() and isinstance(v, str)}
    assert named == all_reasons - {reasons.TOO_MANY}
    assert len({row["output"] for row in ROWS}) == len(ROWS) >= 60


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_line_ends_do_not_matter(row):
    options = {k: v for k, v in row.items() if k in OPTIONS}
    windows = row["output"].replace("\r\n", "\n").replace("\n", "\r\n")
    strip = [(q.question, q.choices, q.answer) for q in extract(row["output"], **options)[0]]
    assert [(q.question, q.choices, q.answer) for q in extract(windows, **options)[0]] == strip


def test_questions_know_their_line_and_rejected_ones_show_their_text():
    output = (
        "Hello!\n\n1. What?\nA) a cat\nB) a dog\nC) a cow\nD) a pig\nAnswer: A\n\n2. Who?\nA) me"
    )
    (kept,), (rejected,) = extract(output)
    assert (kept.line, rejected.line) == (3, 10)
    assert rejected.text == "2. Who?\nA) me" and rejected.reason == reasons.FEWER


def test_more_questions_than_are_read_are_noted():
    one = "{n}. What is number {n}?\nA) a cat\nB) a dog\nC) a cow\nD) a pig\nAnswer: A\n"
    kept, rejected = extract("".join(one.format(n=n) for n in range(1, 150)))
    assert len(kept) == 100 and [r.reason for r in rejected] == [reasons.TOO_MANY]


@pytest.mark.parametrize(
    "style", ["{}) ", "{}. ", "{}: ", "({}) ", "{}\u3001", "\uff08{}\uff09", "- {}) "]
)
@pytest.mark.parametrize(
    "heading", ["#### 1. **{}**", "Question 1: {}", "1\u3001{}", "\u95ee\u98981\uff1a{}"]
)
@pytest.mark.parametrize(
    "answer",
    [
        "**Answer:** {0}",
        "Answer: {0}) {1}",
        "\u7b54\u6848\u662f {0}",
        "\u6b63\u786e\u7b54\u6848\uff1a{1}",
    ],
)
def test_every_heading_goes_with_every_label_and_every_answer(style, heading, answer):
    choices = ["a red car", "a blue car", "a green car", "two cars"]
    for right in range(4):
        options = [style.format(LETTERS[i]) + choice for i, choice in enumerate(choices)]
        last = answer.format(LETTERS[right], choices[right])
        (kept,), rejected = extract("\n".join([heading.format("What drives by?"), *options, last]))
        assert (kept.question, kept.choices) == ("What drives by?", tuple(choices))
        assert kept.answer == right and not rejected


JUNK = [
    "1. ", "A) ", '{"a":', "**", "[[[(", "Answer: ", "1. q\nA) x\nB) y\n", "A) x\n", "| ",
    "\u95ee\u9898",
    "(correct", "- ", "*a ", " ", "\n", "1:", '{"question": ', "\u0301", "Q", "A.B.", "question ",
    "\u4ee5\u4e0a", '{"question": "a"}', "{ ", '{"', "<answer>", "<think>", "a b c d e f. ",
    "1. A) a B) b Answer: ", "\u7b54\u6848\uff1a1. B ", "\\boxed{", "[x] ", "Answers\n1. B\n",
    "\x00\ud800",
]  # fmt: skip


@pytest.mark.parametrize("piece", JUNK, ids=range(len(JUNK)))
def test_a_megabyte_of_junk_takes_well_under_a_second(piece):
    began = time.process_time()
    kept, rejected = extract(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 0.8
    assert len(kept) <= 100 and len(rejected) <= 101
