"""What requests hold: bodies, questions as texts, paths. All without a server."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caprl_native.data.choices import LETTERS
from caprl_native.rewards.prompts import CANNOT_ANSWER
from caprl_native.rewards.service.json_body import BadBody, parse_body
from caprl_native.rewards.service.media_paths import NoFile, RefusedPath, media_file
from caprl_native.rewards.service.protocol import (
    MAX_SEED,
    Job,
    Limits,
    Malformed,
    Outcome,
    QaBody,
    jobs_of_prompts,
    read_body,
    reply_of,
)
from caprl_native.rewards.service.question_text import AsGiven, parse_question, question_text
from caprl_native.types import Question

GOLDEN = Path(__file__).parents[2] / "golden/rl/caprl_options_and_letters.json"
LIMITS = Limits(captions=8, caption_chars=100, questions=4, question_chars=200)
PAIR = ["What colour?\n   - A) red\n   - B) blue", "B"]


def jobs(value, seed: int = 0) -> list[Job]:
    body = read_body(value, "qa", LIMITS)
    assert isinstance(body, QaBody)
    return jobs_of_prompts(body, "video", seed, LIMITS)


# --- questions as texts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "   - A) red\n   - B) blue",
        "A) red\nB) blue",
        "A. red\nB. blue",
        "(A) red\n(B) blue",
        "a: red\nb: blue",
        "   - A) A. red\n   - B) B. blue",
        "   - A) (A) red\n   - B) B) blue",
    ],
)
def test_choices_are_found_by_their_labels(lines):
    expected = Question("What colour?", ("red", "blue"), 1)
    assert parse_question(f"What colour?\n{lines}", "B") == expected


def test_a_choice_may_start_with_another_letter_and_go_on_over_lines():
    text = "Who?\nA) B. King\nB) a man\n   in black"
    assert parse_question(text, "A") == Question("Who?", ("B. King", "a man\nin black"), 0)


def test_any_seed_that_the_protocol_takes_gets_through_the_parser():
    raw = json.dumps({"prompts": [["x", [PAIR]]], "seed": MAX_SEED - 1}).encode()
    assert jobs(parse_body(raw, 16))[0].key[0] == MAX_SEED - 1


def test_a_label_is_dropped_at_the_start_of_a_choice_alone():
    text = "Who?\nA) The USA. It is big\nB) a red club. It is old"
    choices = ("The USA. It is big", "a red club. It is old")
    assert parse_question(text, "A") == Question("Who?", choices, 0)


def test_blanks_within_a_choice_take_no_time():
    began = time.process_time()
    parse_question(f"Who?\nA) x{' ' * 16_000}y\nB) z", "A")
    assert time.process_time() - began < 2  # 11 s where each blank begins a search


def test_a_cannot_answer_line_becomes_our_own_whatever_its_letter():
    text = "Who?\n   - A) x\n   - B) y\n   - F) Can not answer based on the caption"
    assert parse_question(text, "B") == Question("Who?", ("x", "y", CANNOT_ANSWER), 1)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Is it red?", "A"),
        ("What?\n   - A) red\n   - B) blue", "C"),
        ("What?\n   - A) red\n   - A) blue", "A"),
        ("What?\n   - A) red\n   - B) red", "A"),
        ("   - A) red\n   - B) blue", "A"),
    ],
)
def test_what_cannot_be_told_apart_is_asked_as_given(text, letter):
    assert parse_question(text, letter) == AsGiven(text.strip(), letter)


words = st.text("abcdefgh ", min_size=1, max_size=20).map(str.strip).filter(bool)


@given(words, st.lists(words, min_size=2, max_size=26, unique=True), st.data())
def test_what_our_client_writes_our_server_reads(question, choices, data):
    answer = data.draw(st.integers(0, len(choices) - 1))
    asked = Question(
        " ".join(question.split()), tuple(" ".join(c.split()) for c in choices), answer
    )
    if asked.choices.count(asked.choices[answer]) == 1:
        assert parse_question(question_text(asked), LETTERS[answer]) == asked


def test_the_references_own_texts_keep_their_right_choice():
    """Golden rows that a reference's client sends: the right text is right, no label is left."""
    rows = [c for c in json.loads(GOLDEN.read_text())["cases"] if c["kind"] == "shuffle_usable"]
    told = 0
    for row in rows:
        sent, wanted = row.get("reference", {}), row["invariants"]
        if "formatted_question" not in sent or len(sent.get("formatted_answer") or "") != 1:
            continue
        found = parse_question(sent["formatted_question"], sent["formatted_answer"])
        if isinstance(found, Question):
            told += 1
            assert found.choices[found.answer] == wanted["correct_text"], row["id"]
            assert set(found.choices) >= set(wanted["option_texts"]), row["id"]
    assert told >= 4


# --- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "not JSON"),
        (b"\xff{}", "UTF-8"),
        (b'{"prompts": [], "prompts": []}', "same name twice"),
        (b'{"seed": NaN}', "NaN"),
        (b'{"seed": -Infinity}', "Infinity"),
        (b'{"seed": 1e999}', "too large"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "more than 19 digits"),
        (b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "more than 16 deep"),
        (b'{"query": ' + b"[" * 100_000, "more than 16 deep"),
        (b'{"query": "\\ud800"}', "surrogate"),
        (b"[" + b"0," * 4_000_001 + b"0]", "4,000,000 values"),
    ],
)
def test_json_that_surprises_is_refused(body, error):
    with pytest.raises(BadBody, match=error):
        parse_body(body, 16)


def test_brackets_in_texts_are_no_depth():
    assert parse_body(b'{"a": "[[[[\\"[[[[\\\\"}', 2) == {"a": '[[[["[[[[\\'}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([], "expected an object"),
        ({}, "prompts: "),
        ({"prompts": {}}, "prompts: "),
        ({"prompts": [], "stirct": True}, "stirct: "),
        ({"prompts": [], "score_mode": "x"}, "score_mode: "),
        ({"prompts": ["x"]}, r"prompts\[0\]: "),
        ({"prompts": [["x"]]}, r"prompts\[0\]: "),
        ({"prompts": [[3, [PAIR]]]}, r"prompts\[0\]\[0\]: "),
        ({"prompts": [["x", []]]}, r"prompts\[0\]\[1\]: "),
        ({"prompts": [["x", [PAIR]], ["x", [["q"]]]]}, r"prompts\[1\]\[1\]\[0\]: "),
        ({"prompts": [["x", [["q", 1]]]]}, r"prompts\[0\]\[1\]\[0\]\[1\]: "),
        ({"prompts": [["x", [["q", "AB"]]]]}, r"prompts\[0\]\[1\]\[0\]\[1\]: expected a letter"),
        ({"prompts": [["x", [["", "A"]]]]}, r"prompts\[0\]\[1\]\[0\]\[0\]: expected a question"),
        ({"prompts": [["x" * 101, [PAIR]]]}, r"prompts\[0\]\[0\]: 101 characters"),
        ({"prompts": [["x", [PAIR] * 5]]}, r"prompts\[0\]\[1\]: more than 4"),
        ({"prompts": [["x", [["q" * 201, "A"]]]]}, r"prompts\[0\]\[1\]\[0\]: more than 200"),
        ({"prompts": [["x", [PAIR]]] * 9}, "prompts: 9 captions"),
        ({"prompts": [["x", [PAIR]]], "keys": []}, "keys: 0 for 1 captions"),
        ({"prompts": [["x", [PAIR]]], "keys": [""]}, r"keys\[0\]: "),
        ({"prompts": [["x", [PAIR]]], "tasks": ["text"]}, r"tasks\[0\]: "),
        ({"prompts": [["x", [PAIR]]], "seed": True}, "seed: "),
        ({"prompts": [["x", [PAIR]]], "seed": -1}, "seed: "),
        ({"prompts": [["x", [PAIR]]], "seed": 1.5}, "seed: "),
        ({"prompts": [["x", [PAIR]]], "draws": 10**9}, "draws: "),
        ({"prompts": [["x", [PAIR]]], "deadline_s": 0}, "deadline_s: "),
        (
            {"prompts": [["x", [{"question": "q", "choices": ["a", "b"], "answer": 2}]]]},
            r"prompts\[0\]\[1\]\[0\]\.answer: ",
        ),
        (
            {"prompts": [["x", [{"question": "q", "choices": ["a"], "answer": 0}]]]},
            r"prompts\[0\]\[1\]\[0\]\.choices: ",
        ),
        ({"score_mode": "vl_judge", "prompts": []}, "samples: "),
        ({"score_mode": "vl_judge", "samples": [{"caption": 1}]}, r"samples\[0\]\.caption: "),
    ],
)
def test_a_malformed_body_names_its_place(value, error):
    with pytest.raises(Malformed, match=f"^{error}"):
        jobs(value)


def test_the_references_body_and_ours_mean_the_same_job():
    (theirs,) = jobs({"prompts": [["x", [PAIR]]], "query": [], "labels": []})
    structured = {"question": "What colour?", "choices": ["red", "blue"], "answer": 1}
    (ours,) = jobs({"prompts": [["x", [structured]]]})
    assert ours == theirs
    assert ours.questions == (Question("What colour?", ("red", "blue"), 1),)


def test_draws_depend_on_the_key_and_the_seed_or_on_what_is_asked():
    body = {"prompts": [["x", [PAIR]], ["x", [PAIR]], ["y", [PAIR]]]}
    same, again, other = (job.key for job in jobs(body))
    assert same == again != other
    assert jobs(body, seed=1)[0].key != same
    keyed = jobs(body | {"keys": ["3\x1fs0\x1f1", "k", "k"], "seed": 7})
    assert keyed[0].key == (7, "3", "s0", "1")
    assert keyed[1].key == keyed[2].key == (7, "k")


def test_replies_are_the_references_and_never_zero_for_a_failure():
    outcomes = [
        Outcome({"accuracy": 0.5, "timestamps": 1.0}),
        Outcome(failure="no reply"),
        Outcome({"accuracy": 1.0}),
    ]
    weights = {"accuracy": 1.0, "timestamps": 0.2}
    assert reply_of(outcomes, "qa", weights, detail=False) == {
        "rewards": [0.7, None, 1.0],
        "qa_rewards": [0.5, None, 1.0],
        "format_rewards": [1.0, None, None],
        "failures": {"1": "no reply"},
    }
    images = [Outcome({"accuracy": 0.5})]
    assert reply_of(images, "qa", {"accuracy": 2.0}, detail=False) == {
        "rewards": [1.0],
        "qa_rewards": [0.5],
    }
    assert reply_of([], "qa", weights, detail=False) == {"rewards": []}
    judged = [Outcome({"judge": 0.25})]
    assert reply_of(judged, "vl_judge", {"judge": 1.0}, detail=False) == {
        "rewards": [0.25],
        "judge_rewards": [0.25],
    }


# --- paths ------------------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path):
    root, outside = tmp_path / "media", tmp_path / "outside"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
    (root / "sub/clip.mp4").write_bytes(b"x")
    (outside / "secret.mp4").write_bytes(b"x")
    (root / "link.mp4").symlink_to(root / "sub/clip.mp4")
    (root / "leak.mp4").symlink_to(outside / "secret.mp4")
    (root / "leak").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe.mp4")
    return [root.resolve()]


def test_files_within_the_roots_are_found(roots):
    clip = roots[0] / "sub/clip.mp4"
    for name in ("sub/clip.mp4", str(clip), "./sub//clip.mp4", "link.mp4"):
        assert media_file(name, roots) == clip


@pytest.mark.parametrize(
    "name",
    [
        "../outside/secret.mp4",
        "sub/../../outside/secret.mp4",
        "sub/../sub/clip.mp4",
        "/etc/passwd",
        "leak.mp4",
        "leak/secret.mp4",
        "leak/nothing.mp4",
        "http://127.0.0.1/x.mp4",
        "file:///etc/passwd",
        "data:video/mp4;base64,AA",
        "sub\\..\\x",
        "a\0b",
    ],
)
def test_paths_out_of_the_roots_are_refused(roots, name):
    with pytest.raises(RefusedPath):
        media_file(name, roots)


@pytest.mark.parametrize("name", ["nothing.mp4", "sub", "pipe.mp4", "loop", "sub/" + "x" * 300])
def test_what_is_no_file_is_missing(roots, name):
    with pytest.raises(NoFile):
        media_file(name, roots)


def test_without_roots_nothing_is_opened(roots):
    with pytest.raises(RefusedPath, match="media_roots"):
        media_file("sub/clip.mp4", [])
