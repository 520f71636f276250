"""Time spans, their overlap and its means."""

import itertools
import json
from pathlib import Path

import pytest

from eval.scoring.grounding import grounding_iou, grounding_metrics, parse_spans, span_iou

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "timelens.json"
CASES = json.loads(TABLE.read_text())
SINGLE = [case for case in CASES if case["kind"] == "parse_iou"]
AGGREGATES = [case for case in CASES if case["kind"] == "aggregate"]
SPANS = [(0.0, 10.0), (5.0, 15.0), (10.0, 20.0), (2.5, 3.5), (0.0, 100.0)]


@pytest.mark.parametrize("case", SINGLE, ids=[case["id"] for case in SINGLE])
def test_golden(case: dict) -> None:
    """With lmms-eval's 0 where TimeLens divides by zero."""
    want = case["expected"]
    assert [list(span) for span in parse_spans(case["prediction"])] == want["timelens_spans"]
    iou = want["timelens_iou"]
    iou = want["lmms_eval_iou"] if isinstance(iou, dict) else iou
    assert grounding_iou(case["prediction"], tuple(case["answer"])) == pytest.approx(iou, abs=1e-12)


@pytest.mark.parametrize("case", AGGREGATES, ids=[case["id"] for case in AGGREGATES])
def test_golden_aggregate(case: dict) -> None:
    ious = [grounding_iou(item["prediction"], tuple(item["answer"])) for item in case["items"]]
    want = pytest.approx(case["expected"]["lmms_eval"], abs=1e-9)
    assert grounding_metrics(ious) == want
    assert grounding_metrics(sorted(ious)) == want


@pytest.mark.parametrize(("first", "second"), list(itertools.product(SPANS, repeat=2)))
def test_iou_laws(first: tuple[float, float], second: tuple[float, float]) -> None:
    iou = span_iou(first, second)
    assert iou == span_iou(second, first)
    assert (iou == 1) == (first == second)
    assert 0 <= iou <= 1
    moved = span_iou((first[0] + 7, first[1] + 7), (second[0] + 7, second[1] + 7))
    assert moved == pytest.approx(iou)
    assert span_iou(first[::-1], second) == 0


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("00:10 - 00:25", [(10, 25)]),
        ("1:00:10.5 to 1:00:25", [(3610.5, 3625)]),
        ("1:2:30 and 1:02:40", [(150, 3760)]),
        ("1 to 2, 3 TO 4", [(1, 2), (3, 4)]),
        ("1 2 3", [(1, 2)]),
        ("none", []),
    ],
)
def test_spans(text: str, want: list[tuple[float, float]]) -> None:
    assert parse_spans(text) == want


def test_no_item_is_an_error() -> None:
    with pytest.raises(ValueError, match="no item"):
        grounding_metrics([])
