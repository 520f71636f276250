"""The timestamp reward, both rules."""

import json
from pathlib import Path

import pytest

from caprl_native.rewards.terms.timestamps import timestamp_reward

TABLE = Path(__file__).parents[1] / "golden" / "rl" / "caprl_format_reward.json"
CASES = json.loads(TABLE.read_text())["cases"]
VARIANTS = {"release": "release_notes_variant", "density": "code_variant"}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    """With `digits="any"`: the reference takes full-width digits too, our default does not."""
    given, want = case["input"], case["output"]
    for rule, variant in VARIANTS.items():
        score = timestamp_reward(**given, rule=rule, digits="any")
        assert score.value == pytest.approx(want[variant], abs=1e-12)
        assert (score.n_all, score.n_valid) == (want["n_all"], want["n_valid"])
        assert score.chronological == bool(want["i_chrono"])
        if (given["text"] or "").isascii():
            assert timestamp_reward(**given, rule=rule) == score


@pytest.mark.parametrize("rule", VARIANTS)
def test_laws(rule: str) -> None:
    """In 0..1; nothing valid is 0; complete and ordered is 1; disorder costs."""
    ordered = "[00:01] a [00:05 - 00:09] b [123:00] c"
    assert timestamp_reward(ordered, rule).value == 1.0
    assert timestamp_reward("[123:00] c [00:05 - 00:09] b [00:01] a", rule).value < 1.0
    for text in (None, "", "a caption", "[1000:00]", "[00:75]", "[00:09 - 00:05]"):
        assert timestamp_reward(text, rule).value == 0.0
    for text in ("[00:01]", "[00:61] [00:02]", "[00:03] [00:02] [00:99]"):
        assert 0 < timestamp_reward(text, rule).value <= 1


def test_the_minute_bound_and_the_digits() -> None:
    assert timestamp_reward("[599:59] [600:00]", max_minute=599).n_valid == 1
    assert timestamp_reward("[９９:５９]").n_all == 0
    assert timestamp_reward("[９９:５９]", digits="any").n_all == 1


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match="unknown timestamp rule 'strict'"):
        timestamp_reward("", "strict")
