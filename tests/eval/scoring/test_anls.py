"""ANLS, the official and the padded variant, and the edit distance below both."""

import itertools
import json
from pathlib import Path

import pytest

from eval.scoring.anls import anls, edit_distance, padded_anls

TABLE = Path(__file__).parents[2] / "golden" / "eval" / "anls.json"
CASES = json.loads(TABLE.read_text())
TEXTS = ["", "a", "ab", "ba", "abc", "cab", "abcabc", "xyz", "straße", "北京"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    given, want = (case["prediction"], case["answer"], case["threshold"]), case["expected"]
    assert anls(*given) == pytest.approx(want["anls_package"], abs=1e-12)
    assert padded_anls(*given) == pytest.approx(want["vlmevalkit"], abs=1e-12)
    assert padded_anls(*given) == pytest.approx(want["lmms_eval"], abs=1e-12)


def test_the_edit_distance_is_a_metric() -> None:
    for a, b, c in itertools.product(TEXTS, repeat=3):
        distance = edit_distance(a, b)
        assert (distance == 0) == (a == b)
        assert distance == edit_distance(b, a) <= max(len(a), len(b))
        assert edit_distance(a, c) <= distance + edit_distance(b, c)
    assert edit_distance("kitten", "sitting") == 3


@pytest.mark.parametrize(("left", "right"), list(itertools.combinations(TEXTS, 2)))
def test_bounds_symmetry_and_the_best_answer(left: str, right: str) -> None:
    score = anls(left, [right])
    assert score == anls(right, [left]) == anls(left.upper(), [right.upper()])
    assert score == 0 or 0.5 < score <= 1
    assert anls(left, ["nothing like it", right]) == anls(left, [right, "nothing like it"]) == score
    assert anls(left, [right, left]) == 1
    assert anls(f"  {left}\n", [right]) == score


def test_exactly_half_and_padding_are_where_the_variants_differ() -> None:
    assert (anls("ab", ["ac"]), padded_anls("ab", ["ac"])) == (0.0, 0.5)
    wrong = "tokyo" + 30 * " "
    assert anls(wrong, ["new york"]) == 0.0
    assert padded_anls(wrong, ["new york"]) > 0.75


@pytest.mark.parametrize("rule", [anls, padded_anls])
def test_no_answer_is_an_error(rule) -> None:
    with pytest.raises(ValueError, match="list of answers is empty"):
        rule("42", [])
