"""MMVU answers by rule."""

import json
from pathlib import Path

import pytest

from eval.scoring.mmvu import mmvu_correct

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "mmvu_rule.json"
CASES = [case for case in json.loads(TABLE.read_text()) if case["sensible"] is not None]
OPEN = [case for case in CASES if case["question_type"] == "open-ended"]

DFS = "Depth-First Search (DFS)"


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    given = (case["prediction"], case["answer"], case.get("choices"))
    assert mmvu_correct(*given) is case["sensible"]


@pytest.mark.parametrize("case", OPEN, ids=[case["id"] for case in OPEN])
def test_what_is_around_the_answer_changes_nothing(case: dict) -> None:
    said, answer, want = case["prediction"], case["answer"], case["sensible"]
    for wrapped in (f"<think>It is {answer}.</think> {said}", f"Answer: {said}", f"**{said}**\n"):
        assert mmvu_correct(wrapped, answer) is want
    if said:
        assert mmvu_correct(f"<answer>{said}</answer>", answer) is want
        assert mmvu_correct(f"Maybe {answer}. So \\boxed{{{said}}}", answer) is want


@pytest.mark.parametrize("case", OPEN, ids=[case["id"] for case in OPEN])
def test_every_answer_is_its_own(case: dict) -> None:
    assert mmvu_correct(case["answer"], case["answer"])
    assert mmvu_correct(f"The answer is {case['answer'].upper()}.", case["answer"])


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        *((said, "5") for said in ["five", "5 apples", "about 5", "There are 5.", "+5", "5.001"]),
        *((said, "5 cm") for said in ["5", "5cm", "5 cm long"]),
        *((said, "-5") for said in ["-5", "\u22125", "x is -5"]),
        *((said, "1,000") for said in ["1000", "1e3", "1,000.0"]),
        ("9.8", "9.81 m/s^2"),
        ("9.81 m/s\u00b2", "9.8 m/s^2"),
        ("50 %", "50%"),
        ("The complexity is O( n\u00b2 ).", "O(n^2)"),
        *((said, DFS) for said in ["DFS", "depth first search", "It is depth-first search."]),
        ("Newton\u2019s second law of motion", "Newton second law"),
        ("the speed of light", "light speed"),
        ("y = 3, x=12", "x = 12"),
        ("Yes, it is", "yes"),
        *((said, "x = 12") for said in ["12", "x is 12", "x = 12.0"]),
        *((said, "-5") for said in ["minus 5", "negative 5", "- 5"]),
        *((said, "50%") for said in ["50 percent", "50\\%", r"\boxed{50\%}"]),
        ("O(n^{2})", "O(n^2)"),
        ("9.81 m/s^{2}", "9.81 m/s^2"),
        ("5 (five)", "5"),
        *((said, "2.5 × 10^3") for said in ["2500", "2.5e3", r"2.5 \times 10^{3}", "2.5x10^3"]),
        *((said, "1/2") for said in ["0.5", r"\frac{1}{2}", "\u00bd", "1/2"]),
        *((said, "Newton's second law") for said in ["newtons second law", "Newton's 2nd law"]),
        *((said, "Sodium chloride (NaCl)") for said in ["NaCl", "sodium chloride"]),
        ("光合作用", "光合作用"),
    ],
)
def test_right(prediction: str, answer: str) -> None:
    assert mmvu_correct(prediction, answer)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        *((said, "5") for said in ["", "15", "50", "0.5", "5.5", "5.1", "5 or 6", "not 5", "-5"]),
        *((said, "5") for said in ["minus 5", "5^2"]),
        *((said, "5 m") for said in ["5 cm", "5 minutes", "6 m"]),
        ("1790", "1789"),
        ("3.1", "3.14"),
        *((said, "O(n)") for said in ["O(n^2)", "n", "2O(n)"]),
        *((said, DFS) for said in ["BFS", "search", "Breadth-first search", "not DFS"]),
        *((said, "heart attack") for said in ["heart", "attack", "no heart attack", "a"]),
        ("Photosynthesis or respiration", "photosynthesis"),
        ("Photosynthesis and respiration", "photosynthesis"),
        *((said, "x = 12") for said in ["x = 120", "x = 12.5", "x = -12", "2x = 12"]),
        *((said, "1/2") for said in ["1", "2", "1/3", "1/2/2020"]),
        *((said, "x = 12") for said in ["13", "y = 12", "between 5 and 12"]),
        ("left to right", "right to left"),
        ("man bites dog", "dog bites man"),
        ("there is no", "no"),
    ],
)
def test_wrong(prediction: str, answer: str) -> None:
    assert not mmvu_correct(prediction, answer)


def test_an_option_is_read_by_its_letter_or_its_words() -> None:
    choices = {"A": "Binary search", "B": "Depth-first search"}
    for said in (
        "b",
        "Depth first search",
        "Therefore, the final answer is: $B$",
        "A is wrong, so B",
    ):
        assert mmvu_correct(said, "B", choices)
        assert not mmvu_correct(said, "A", choices)
