"""MMBench-Video: the judge's rating and the means over dimensions."""

import json
from pathlib import Path

import pytest

from eval.scoring.mmbench_video import COARSE, LABELS, dimension_means, judge_score

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "mmbench_video_dimensions.json"
CASES = json.loads(TABLE.read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    items = [(item["dimensions"], item["score"]) for item in case["items"]]
    assert dimension_means(items) == case["expected"]
    assert dimension_means(items[::-1]) == case["expected"]
    unjudged = [(labels, None if score < 0 else score) for labels, score in items]
    assert dimension_means(unjudged) == case["expected"]


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ("0", 0),
        (" 3\n", 3),
        ("2.", 2),
        ("Score: **1**", 1),
        ("3\nIt says the same, so 3.", 3),
        ("4", None),
        ("-1", None),
        ("2.5", None),
        ("2 or 3", None),
        ("2/3", None),
        ("10", None),
        ("It counts 5 cars: 2", None),
        ("three", None),
        ("The candidate is largely correct.", None),
        ("", None),
    ],
)
def test_the_rating_is_the_only_number(reply: str, want: int | None) -> None:
    assert judge_score(reply) == want


def test_every_label_has_one_place() -> None:
    assert len(LABELS) == len(set(LABELS)) == 26
    assert COARSE["Overall"] == set(LABELS) == COARSE["Perception"] | COARSE["Reasoning"]
    assert not COARSE["Perception"] & COARSE["Reasoning"]


def test_no_items_and_unknown_labels() -> None:
    tables = dimension_means([])
    assert {value for table in tables.values() for value in table.values()} == {"nan"}
    with pytest.raises(ValueError, match="unknown MMBench-Video dimension 'Sound'"):
        dimension_means([(["OCR", "Sound"], 3)])
