"""Over real ranks: what moves arrives whole, and nothing else goes over the wire."""

import pytest

from tests.ranks import run_ranks

SLACK = 2048  # bytes of a parcel beside its prompt's tensors: names, tokens, log-probs


@pytest.mark.parametrize(("ranks", "at_first"), [(2, "of rank 0"), (4, "in turn")])
def test_groups_move_bit_for_bit_and_only_what_must_move_is_sent(ranks, at_first):
    found = run_ranks("moving", ranks, 16, at_first)
    assert sorted(i for r in found for i in r["here"]) == list(range(16))
    for r in found:
        assert not r["changed"] and all(r["shapes"]), r
        (sent,) = r["sent"]
        assert r["tensors"] <= sent <= r["tensors"] + SLACK * r["moved"]
    assert sum(r["moved"] for r in found) == {2: 6, 4: 2}[ranks]
    loads = [r["load"] for r in found]
    assert max(loads) <= 1.2 * sum(loads) / ranks


def test_where_loads_allow_it_all_stay_and_there_is_no_exchange():
    first, second = run_ranks("moving", 2, 8, "balanced")
    assert first["here"] == [0, 1, 2, 3] and second["here"] == [4, 5, 6, 7]
    assert first["sent"] == second["sent"] == []
