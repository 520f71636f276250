"""The length reward."""

import json
from pathlib import Path

import pytest

from caprl_native.rewards.terms.length import length_reward

TABLE = Path(__file__).parents[1] / "golden" / "rl" / "caprl_length_reward.json"
CASES = json.loads(TABLE.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden(case: dict) -> None:
    given, want = case["input"], case["output"]
    reward = length_reward(given["tokens"], given["l1"], given["l2"])
    assert reward == pytest.approx(want["length_reward"], abs=1e-12)
    if case["kind"] == "total_score":
        total = given["accuracy"] + given["weight_length"] * reward
        total += given["weight_format"] * given["format_reward"]
        assert total == pytest.approx(want["total"], abs=1e-12)


def test_it_never_rises_with_the_length() -> None:
    rewards = [length_reward(n, 20, 50) for n in range(80)]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[20] == 1.0 and rewards[50] == 0.0 and 0 < rewards[35] < 1
