"""ChartQA's relaxed accuracy."""

import json
from pathlib import Path

import pytest

from eval.scoring.relaxed import relaxed_accuracy, relaxed_match

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "relaxed_accuracy.json"
CASES = json.loads(TABLE.read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    prediction, answer, want = case["prediction"], case["answer"], case["expected"]
    if isinstance(answer, str):
        assert relaxed_match(prediction, answer) == want["vlmevalkit"] == want["lmms_eval"]
    assert relaxed_accuracy(prediction, answer) == want["vlmevalkit_process_line"]


@pytest.mark.parametrize("prediction", ["42", "44.1", "39.8", "blue", "", "5%"])
def test_a_list_its_literal_and_each_element_agree(prediction: str) -> None:
    answers = ["42", "Blue", "5%"]
    verdict = any(relaxed_match(prediction, answer) for answer in answers)
    assert relaxed_accuracy(prediction, answers) == verdict
    assert relaxed_accuracy(prediction, str(answers)) == verdict
    assert relaxed_accuracy(prediction, answers[::-1]) == verdict
    assert relaxed_accuracy(f" {prediction}\n", answers) == verdict


@pytest.mark.parametrize("factor", [0.001, 1.0, 1000.0])
def test_the_band_is_relative_to_the_answer(factor: float) -> None:
    for share, inside in ((0.94, False), (0.96, True), (1.04, True), (1.06, False)):
        assert relaxed_match(str(share * factor), str(factor)) == inside
        assert relaxed_match(str(-share * factor), str(-factor)) == inside
        assert not relaxed_match(str(-share * factor), str(factor))


@pytest.mark.parametrize("answers", [[], "[]", " [] "])
def test_no_answer_is_an_error(answers: str | list[str]) -> None:
    with pytest.raises(ValueError, match="list of answers is empty"):
        relaxed_accuracy("42", answers)


@pytest.mark.parametrize("answer", ["[print('run')]", "[1][0]", "[1 for _ in 'ab']", "[" * 300])
def test_an_answer_is_never_run(answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert relaxed_accuracy(answer, answer)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("-10", "[10-20]", True),
        ("[10-20]", "[10-20]", False),
        ("0.5", "[1/2, 'half']", True),
        ("8", "[2**3]", True),
        ("5", "[--5]", True),
        ("[1/0]", "[1/0]", True),  # as for Python it is no list, it is a text
        ("[9**9**9]", "[9**9**9]", True),  # too large to be worked out
    ],
)
def test_arithmetic_in_a_list_is_worked_out(prediction: str, answer: str, right: bool) -> None:
    assert relaxed_accuracy(prediction, answer) is right
