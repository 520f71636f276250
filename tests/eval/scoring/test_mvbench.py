"""MVBench answers: the careful reading, and VLMEvalKit's rule with its defects."""

import json
from pathlib import Path

import pytest

from eval.scoring.mvbench import check_ans, mvbench_correct

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "mvbench_check_ans.json"
CASES = json.loads(TABLE.read_text())
DECIDED = [case for case in CASES if case["sensible"] is not None]

CUP = "(B) The red cup"
CUPS = {"A": "The blue cup", "B": "The red cup", "C": "The red cup on a plate"}


@pytest.mark.parametrize("case", DECIDED, ids=[case["id"] for case in DECIDED])
def test_golden(case: dict) -> None:
    assert mvbench_correct(case["prediction"], case["answer"]) is case["sensible"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden_check_ans(case: dict) -> None:
    want = case["expected"]["vlmevalkit_check_ans"]
    if isinstance(want, dict):
        with pytest.raises(ValueError, match="has no text after its letter"):
            check_ans(case["prediction"], case["answer"])
    else:
        assert check_ans(case["prediction"], case["answer"]) is want


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        *((said, CUP) for said in ["b.", "[B]", "**(B)**", "(B).", "Best Option: (B", "red cup"]),
        *((said, CUP) for said in ["It is the red cup.", "The cup is red.", "B, the red cup"]),
        *((said, "(C) 3") for said in ["3.", "three", "There are 3", "(C)"]),
        ("Yes.", "(A) yes"),
        ("Left to right", "(A) left to right."),
        ("A dog", "(A) a dog"),
        ("A cat", "(B) a cat"),
        ("The answer is A", "(A)"),
        ("not sure", "(D) not sure"),
        ("He takes the red cup and leaves", CUP),
    ],
)
def test_right(prediction: str, answer: str) -> None:
    assert mvbench_correct(prediction, answer)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        *((said, CUP) for said in ["", " ", ".", "()", "AB", "A, B", "(B) or (C)", "not B", "E"]),
        *((said, CUP) for said in ["not the red cup", "red", "cup", "the", "(C) The red cup"]),
        *((said, "(C) 3") for said in ["13", "30", "3 or 4", "(B) 3", "4"]),
        ("The red cup and the blue cup", CUP),
        ("the blue cup and the red cup", CUP),
        ("no", "(A) yes"),
        ("right to left", "(A) left to right."),
        ("(A) a cat", "(B) a cat"),
        ("B", "(A)"),
    ],
)
def test_wrong(prediction: str, answer: str) -> None:
    assert not mvbench_correct(prediction, answer)


def test_the_other_options_decide_where_they_are_known() -> None:
    said = "the red cup on the plate"
    assert mvbench_correct(said, CUP)
    assert not mvbench_correct(said, CUP, CUPS)
    assert mvbench_correct("The red cup", CUP, CUPS)


def test_an_answer_without_a_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="valid: a letter and its text"):
        mvbench_correct("B", "The red cup")
