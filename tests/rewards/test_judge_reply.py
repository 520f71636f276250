"""What a judge's reply says: the golden table, and replies of the kinds that models write."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from caprl_native.rewards.judges.reply import KEYS, Judgement, Unreadable, fused, read_judgement
from caprl_native.text.thoughts import CUT_OFF

TABLE = Path(__file__).parents[1] / "golden" / "rl" / "caprl_judge_score.json"
GOLDEN = json.loads(TABLE.read_text())
WEIGHTS = GOLDEN["meta"]["weights"]
VALUES = dict(zip(KEYS["video"], (0.8, 0.7, 0.6, 0.9), strict=True))
REPLY = json.dumps(VALUES)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_golden(case: dict) -> None:
    text, sensible = case["input"]["text"], case["sensible"]
    if sensible["status"] == "reject":
        with pytest.raises(Unreadable):
            read_judgement(text)
    else:
        score = fused(read_judgement(text).values, WEIGHTS)
        assert score == pytest.approx(sensible["score"], abs=GOLDEN["meta"]["tolerance"])


def reply(**changed: object) -> str:
    return json.dumps(VALUES | changed)


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{REPLY}\n```",
        f"```JSON {REPLY}```",
        f"Here:\n```\n{REPLY}\n```\nI hope this helps.",
        f'<think>\nFirst {{"factuality": 0.1}}, no.\n</think>\n\n{REPLY}',
        f"the prompt opened the thought</think>{REPLY}",
        f"[THINK]{{'factuality': 0}}[/THINK]{REPLY}",
        f"\ufeff{REPLY}\u200b",
        f"{REPLY}\r\n<|im_end|>",
        f"{{{REPLY}}}",
        f'{{"note": "a draft follows"}} {REPLY}',
        f"{{}} {{{{ }} {REPLY} {{",
        json.dumps([VALUES]),
        json.dumps(VALUES | {"reason": 'says "{1}" twice'}),
        json.dumps({"extra": {"deep": [1, {"factuality": 0.1}]}, **VALUES}),
        REPLY.replace("0.8", '"0.8"').replace("0.7", '" 7e-1 "'),
        REPLY.replace("0.6", '"\u0660.\u0666"'),  # Arabic digits
        REPLY.replace("0.9", '"\uff10.\uff19"'),  # full-width digits
        REPLY[:-1] + ', "factuality": 0.8}',  # said twice, the same
    ],
)
def test_a_judgement_is_found_whatever_is_around_it(text: str) -> None:
    assert read_judgement(text).values == pytest.approx(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "None", "8/10", "Score: 8.5", "0.7-0.8", "7 to 8", "four out of five",
        "\u0668/\u0661\u0660", "NaN", "1e999", "{}", "[]", "[[0.8]]", '{"score": 0.8}',
        "factuality: 0.8, temporal_alignment: 0.7, coverage: 0.6, hallucination_penalty: 0.9",
        REPLY[:-1], REPLY[:-1] + ",}", REPLY.replace('"', "\u201c"),
        REPLY + REPLY, f"Draft: {reply(coverage=0.1)} Final: {REPLY}",
        json.dumps({"result": VALUES}), json.dumps([VALUES, VALUES]), json.dumps(REPLY),
        REPLY[:-1] + ', "factuality": 0.1}',
        f"<think>I would say {REPLY}",
        "{" * 100_000, '{"a":' * 50_000, '{"a":[' * 5_000, '{"factuality":' + "9" * 9_000 + "}",
    ],
)  # fmt: skip
def test_what_is_no_judgement_is_never_a_number(text: str) -> None:
    began = time.process_time()
    with pytest.raises(Unreadable):
        read_judgement(text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "value",
    [
        None, "high", "", "0.8/1", "80%", "8/10", "0,8", "0_1", "nan", "inf", "1e999", "0.7-0.8",
        8, 80, 1.06, -0.06, 1e300, 10**400, -1, float("nan"), float("inf"), float("-inf"),
        [0.8], [], {}, {"value": 0.8}, "\u00bd", "\u56db", "VIII",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", KEYS["video"])
def test_a_value_that_is_no_number_from_0_to_1_spoils_the_judgement(key: str, value) -> None:
    with pytest.raises(Unreadable, match=f"{key} is .*expected a number from 0 to 1"):
        read_judgement(json.dumps(VALUES | {key: value}))


@pytest.mark.parametrize("key", KEYS["video"])
def test_a_missing_key_is_no_zero(key: str) -> None:
    with pytest.raises(Unreadable, match=f"{key} is missing"):
        read_judgement(json.dumps({k: v for k, v in VALUES.items() if k != key}))


@pytest.mark.parametrize(
    ("value", "read"),
    [(1.05, 1.0), (-0.05, 0.0), (1, 1.0), (0, 0.0), (-0.0, 0.0), (True, 1.0), (False, 0.0)],
)
def test_values_at_the_bounds(value: float, read: float) -> None:
    assert read_judgement(reply(coverage=value)).values["coverage"] == read


def test_an_image_s_judgement_needs_no_times() -> None:
    given = {"factuality": 0.5, "coverage": 1, "hallucination_penalty": 0, "reason": "a\nb" * 900}
    found = read_judgement(json.dumps(given), KEYS["image"])
    assert found.values == {"factuality": 0.5, "coverage": 1.0, "hallucination_penalty": 0.0}
    assert found.reason.startswith("a\\nb") and len(found.reason) < 1200
    assert isinstance(found, Judgement)
    with pytest.raises(Unreadable, match="temporal_alignment is missing"):
        read_judgement(json.dumps(given))


def test_a_reason_over_several_lines_is_no_reason_to_ask_again() -> None:
    scores = ", ".join(f'"{key}": 0.5' for key in KEYS["image"])
    found = read_judgement(f'{{{scores}, "reason": "One line\n\tand another."}}', KEYS["image"])
    assert set(found.values.values()) == {0.5} and found.reason.startswith("One line")


def test_thoughts_that_were_cut_off_say_so() -> None:
    with pytest.raises(Unreadable, match=CUT_OFF):
        read_judgement(f"<think> so {REPLY}")


def test_weights_need_not_add_up_to_1() -> None:
    assert fused({"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 1.0}) == 0.75
    assert fused({"a": 1.0, "b": 1.0}, {"a": 0.1, "b": 0.2}) == 1.0
