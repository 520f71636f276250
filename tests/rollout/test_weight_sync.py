"""What the trainer sends: every weight once, exact, and never a second model in memory."""

import pytest

from tests.ranks import run_ranks


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("tiny_policy", "bfloat16"),
        ("tiny_policy_2_5", "float32"),
        ("tiny_policy_moe", "bfloat16"),
    ],
)
def test_weights_go_one_at_a_time(request, family, dtype):
    for found in run_ranks("streams", 2, request.getfixturevalue(family), dtype):
        assert found["wrong"] == found["missing"] == [] and found["twice"] == 0
        # `left`: the loop variables still hold the last tensor.
        assert 0 < found["left"] <= found["largest"] <= found["peak"]
        assert found["peak"] <= found["unit"] + found["largest"] < found["all"] / 2, found
