"""The timestamp reward: the published rules, and the checked one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caprl_native.rewards.terms.timestamps import (
    Timestamps,
    TimestampsOptions,
    checked_timestamp_reward,
    timestamp_reward,
)
from tests.rewards.asking import caption

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


# --- checked ----------------------------------------------------------------------------------

GOOD = "[00:00] A man walks in. He sits down. [00:04 - 00:06] He waves. [00:09] He leaves."


def test_a_well_stamped_caption_is_worth_1() -> None:
    assert checked_timestamp_reward(GOOD, 10.0) == 1.0
    assert checked_timestamp_reward("[00:01] turns red, [00:03] form grows.", 5.0) == 1.0
    assert checked_timestamp_reward("[00:01] 男人走进来。[00:03] 他坐下。他挥手。", 5.0) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A man walks in. He waves.",
        "[00:00]",
        "[00:00] A man walks in. He waves.",
        "[99:00] A man walks in. [99:01] He waves.",
        "[00:11] A man walks in. [00:12] He waves.",
        "[00:00] [00:01] [00:02] [00:03] A man walks in. He waves.",
        "[00:00 - 00:10] A man walks in. [00:00 - 00:10] He waves. [00:00 - 00:10] He leaves.",
        "[00:75] A man walks in. [00:09 - 00:05] He waves.",
        "[00:01] a [00:02] b [00:03] c",
    ],
)
def test_brackets_that_put_nothing_in_order_are_worth_nothing(text: str) -> None:
    assert checked_timestamp_reward(text, 10.0) == 0.0


def test_disorder_strangers_and_too_few_cost() -> None:
    whole = checked_timestamp_reward(GOOD, 10.0)
    assert 0 < checked_timestamp_reward(GOOD.replace("00:04", "00:10"), 10.0) < whole
    assert 0 < checked_timestamp_reward(GOOD + " [00:30] A dog barks.", 10.0) < whole
    swapped = "[00:09] He leaves. [00:00] A man walks in. [00:04] He waves."
    assert 0 < checked_timestamp_reward(swapped, 10.0) < whole
    long = " ".join([GOOD, *["There is a tree."] * 20])
    assert 0 < checked_timestamp_reward(long, 10.0) < whole
    assert checked_timestamp_reward(long, 10.0, share=0.1) == whole


def test_a_short_video_needs_no_more_stamps_than_it_has_seconds() -> None:
    text = "[00:00] He comes. [00:01] He goes. " + "There is a tree. " * 30
    assert checked_timestamp_reward(text, 0.7) == 1.0


stamp = st.tuples(st.integers(0, 30), st.integers(0, 12)).map(
    lambda t: f"[00:{t[0]:02d} - 00:{t[0] + t[1]:02d}]" if t[1] else f"[00:{t[0]:02d}]"
)
pieces = st.lists(st.one_of(stamp, st.sampled_from(["He waves.", "A tree stands there.", "x"])))


@given(pieces, st.floats(0.1, 40), st.floats(0.05, 1.0))
def test_laws_of_the_checked_rule(parts: list[str], seconds: float, share: float) -> None:
    """In 0..1; never more for a further bracket in front or behind; text without is worth 0."""
    text = " ".join(parts)
    value = checked_timestamp_reward(text, seconds, share)
    assert 0 <= value <= 1
    assert checked_timestamp_reward(f"{text} [99:00]", seconds, share) <= value
    assert checked_timestamp_reward(f"[00:00] {text}", seconds, share) <= max(value, 0.0) or any(
        p.startswith("[") for p in parts
    )
    assert checked_timestamp_reward(" ".join(p for p in parts if p[0] != "["), seconds) == 0


def test_of_a_video_of_unknown_length_the_reward_is_missing() -> None:
    term = Timestamps(TimestampsOptions(), None)
    known = caption(GOOD, kind="video")
    unknown = replace(known, sample=replace(known.sample, seconds=None))
    assert term.submit(known).result().value == 1.0
    assert "how long" in (term.submit(unknown).result().failure or "")
    assert not term.submit(caption(GOOD)).result().applies
