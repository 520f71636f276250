"""ChartQAPro's item score and its means by question type."""

import json
from pathlib import Path

import pytest

from eval.scoring.chartqapro import chartqapro_means, chartqapro_score

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "chartqapro.json"
CASES = json.loads(TABLE.read_text())
ITEMS = [case for case in CASES if case["kind"] == "item"]
AGGREGATES = [case for case in CASES if case["kind"] == "aggregate"]


def score(item: dict) -> float:
    return chartqapro_score(item["prediction"], item["answer"], item["year"], item["question_type"])


@pytest.mark.parametrize("case", ITEMS, ids=[case["id"] for case in ITEMS])
def test_golden_item(case: dict) -> None:
    want = case["expected"]["chartqapro"]
    if isinstance(want, dict):
        with pytest.raises(ValueError, match="at least one answer and one year flag"):
            score(case)
    else:
        assert score(case) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("case", AGGREGATES, ids=[case["id"] for case in AGGREGATES])
def test_golden_aggregate(case: dict) -> None:
    scored = [(item["question_type"], score(item)) for item in case["items"]]
    want = pytest.approx(case["expected"]["chartqapro"], abs=1e-12)
    assert chartqapro_means(scored) == want
    assert chartqapro_means(scored[::-1]) == want


def test_lists_compare_by_position() -> None:
    def listed(prediction: list, gold: str = "[10, 20, 30]") -> float:
        return chartqapro_score(str(prediction), [gold], ["NO"], "Factoid")

    assert listed([10, 20, 30]) == listed([10.4, 19.1, 31]) == 1
    assert listed([10, 20]) == listed([10, 20, 40]) == pytest.approx(2 / 3)
    assert listed([10, 20, 30, 40]) == pytest.approx(3 / 4)
    assert listed([20, 30, 10]) == 0
    assert listed(["red", "Blue"], "[Red, blue]") == 1


def test_one_year_flag_serves_a_whole_list() -> None:
    def dated(*years: str) -> float:
        return chartqapro_score("[2011, 2021]", ["[2010, 2020]"], years, "Factoid")

    assert dated("NO") == dated("no", "NO") == 1
    assert dated("YES") == dated("yes", "YES", "NO") == 0
    assert dated("YES", "NO") == dated("NO", "YES") == 0.5


def test_a_conversation_is_scored_on_its_last_turn() -> None:
    assert chartqapro_score("41", ["2015", "40"], ["YES", "NO"], "Conversational") == 1
    assert chartqapro_score("41", ["2015", "40"], ["YES", "NO"], "Factoid") == 0


def test_what_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        chartqapro_score("42", [], ["NO"], "Factoid")
    with pytest.raises(ValueError, match="cannot read the gold list"):
        chartqapro_score("42", ["[{[]: 1}]"], ["NO"], "Factoid")
    with pytest.raises(ValueError, match="no scored item"):
        chartqapro_means([])


@pytest.mark.parametrize("sides", [("5% %", "5"), ("5", "5% %"), ("%5 % %", "5")])
def test_percent_signs_fall_off_twice(sides: tuple[str, str]) -> None:
    prediction, answer = sides
    assert chartqapro_score(prediction, [answer], ["NO"], "Factoid") == 1.0
