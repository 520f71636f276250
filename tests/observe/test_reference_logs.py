"""Rollout logs in the layouts of the reference's logs."""

from __future__ import annotations

import json

import pytest

from caprl_native.observe.log import records_of
from caprl_native.types import Group, MediaRef, Question, Rollout, Sample
from tools.reference_logs import main

QUESTION = Question("Which colour?", ("red", "blue"), 0)
LETTERS = {"question": "Which colour?", "choices": ["red", "blue"], "right": "A"}


def rollout(text: str, tokens: int, letter: str | None) -> Rollout:
    right = float(letter == "A")
    return Rollout(
        [1] * tokens,
        [],
        "stop",
        text,
        rewards={"accuracy": right, "length": 1.0},
        parts={"accuracy/right": right},
        total=right + 0.2,
        reading=[LETTERS | {"answer": f" {letter}", "letter": letter}] * 2,
    )


def write_step(folder, step, *groups):
    """As a run writes it: its own records, a line each."""
    (folder / "rollouts").mkdir(exist_ok=True)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records_of(groups))
    (folder / f"rollouts/step_{step:06d}.jsonl").write_text(lines, encoding="utf-8")


def read(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").rstrip("\n").split("\n")]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "video"
    folder.mkdir()
    parts = [{"type": "video"}, {"type": "text", "text": "Describe. " + "x" * 600}]
    sample = Sample("s", (MediaRef("video", "/v/a.mp4"),), ({"role": "user", "content": parts},))
    right, wrong = rollout("red\u2028ish", 3, "A"), rollout("so\nblue", 5, "B")
    write_step(folder, 1, Group(sample, range(70), [right, wrong]))
    write_step(folder, 2, Group(sample, range(70), [rollout("?", 9, None)]))
    return folder


def test_each_log_has_the_reference_s_fields(run, capsys):
    assert main([str(run)]) == 0
    out = run / "reference_logs"
    captions = read(out / "captions_video.jsonl")
    assert [c["caption"] for c in captions] == ["red\u2028ish", "so\nblue", "?"]
    first = captions[0]
    assert first.pop("timestamp").startswith("20") and first.pop("prompt") == (
        "Describe. " + "x" * 490
    )
    assert first == {
        "media_path": "/v/a.mp4",
        "caption": "red\u2028ish",
        "media_type": "video",
        "prompt_length": 70,
        "response_length": 3,
    }
    zero = read(out / "zero_reward.jsonl")
    asked = {"question": "Which colour?", "correct_answer": "A", "model_answer": " B"}
    assert [z["caption"] for z in zero] == ["so\nblue", "?"]
    assert zero[0]["questions"] == [asked] * 2
    assert zero[0]["rewards"] == {"accuracy": 0.0, "length": 1.0}
    longest = read(out / "longest_response.jsonl")
    assert [(x["caption"], x["batch_max_response_length"]) for x in longest] == [
        ("so\nblue", 5),
        ("?", 9),
    ]
    assert "captions_video: 3 lines, zero_reward: 2 lines" in capsys.readouterr().out


def test_what_is_no_rollout_log_is_named(run, tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert "none: expected a run's folder" in capsys.readouterr().err
    with (run / "rollouts/step_000002.jsonl").open("a") as file:
        file.write('{"caption": "x"}\n')
    assert main([str(run)]) == 2
    assert "step_000002.jsonl:2: is no line of a rollout log" in capsys.readouterr().err
    assert not (run / "reference_logs").exists()
