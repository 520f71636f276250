"""TOMATO's first-stage parser, defects included."""

import json
from pathlib import Path

import pytest

from eval.scoring.tomato import is_accepted, official_letter

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "tomato_parse.json"
CASES = json.loads(TABLE.read_text())
TURNS = {"A": "Left", "B": "Right"}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    given, want = (case["prediction"], case["choices"]), case["expected"]
    assert official_letter(*given) == want["tomato_pre_parser"]
    assert is_accepted(*given) == want["tomato_accepted"]


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ("", None),
        ("b\n", "B"),
        ("C", None),
        ("B.", None),
        ("B: Right", None),
        ("Answer is(B)", "B"),
        ("Answer is:(B", "B"),
        ("Answer is: B", None),
        ("ANSWER IS:B", None),
        ("Answer is:G", None),
        ("So. Answer is:B", None),
    ],
)
def test_what_the_rule_reads(reply: str, want: str | None) -> None:
    assert official_letter(reply, TURNS) == want


def test_options_without_lower_case_letters_are_found_in_any_case() -> None:
    for reply in ("A: 10 CM", "a: 10 cm", " A: 10 Cm "):
        assert official_letter(reply, {"A": "10 CM", "B": "5 CM"}) == "A"
        assert official_letter(reply, {"A": "10 cm", "B": "5 cm"}) is None


def test_a_letter_outside_the_choices_is_read_but_not_accepted() -> None:
    assert official_letter("Answer is:F", TURNS) == "F"
    assert not is_accepted("Answer is:F", TURNS)
