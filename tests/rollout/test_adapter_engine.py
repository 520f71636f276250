"""A policy with an adapter beside the real engine: trained, saved, resumed, sent, exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ranks import run_ranks

LIMIT = 1e-4  # nats in float32, mean over tokens
KINDS = {"image", "video", "mixed", "text"}
CASES = {
    "tensor parallel, all parts": ("tiny_policy", 2, ["language", "vision", "projector"]),
    "language, exported": ("tiny_policy_2_5", 1, ["language"]),
}


@pytest.fixture(scope="module", params=CASES)
def found(request, tmp_path_factory) -> list[dict]:
    """What tests/programs/adapters.py found in float32, by rank."""
    family, ranks, targets = CASES[request.param]
    folder: Path = tmp_path_factory.mktemp("adapters")
    path = request.getfixturevalue(family)
    return run_ranks("adapters", ranks, path, "float32", ranks, folder, *targets)


def test_the_adapter_alone_is_trained(found):
    for rank in found:
        assert rank["base is still"] and rank["still"] == []
        assert rank["with gradients"] and sorted(rank["with gradients"]) == rank["adapters"]
        assert rank["state"] == len(rank["adapters"])


def test_it_goes_on_from_a_checkpoint_bit_for_bit(found):
    assert all(rank["resumed alike"] for rank in found)


def test_a_checkpoint_holds_the_adapter_and_its_moments_alone(found):
    for rank in found:
        assert rank["saved"] == rank["adapters"]
        assert rank["saved numbers"] == 3 * rank["adapter numbers"]  # A and B, two moments of each


def test_an_update_does_not_depend_on_how_it_is_computed(found):
    for ways in (rank["norms"] for rank in found if "norms" in rank):
        for loss, norm in ways.values():
            assert loss == pytest.approx(ways["as above"][0], rel=1e-5)
            assert norm == pytest.approx(ways["as above"][1], rel=1e-4) and norm > 0


def test_the_policy_with_its_adapter_off_is_the_reference(found):
    """B is zero at first: policy and reference are one model, to the bit."""
    for rank in found:
        first, second = rank["kl"]
        assert first == 0.0 < second


def test_the_engine_computes_with_the_trainers_adapter(found):
    for rank in found:
        for gaps in (rank["gaps"], rank["trained"]):
            assert gaps.keys() == KINDS and max(gaps.values()) <= LIMIT, gaps
        assert rank["without"] > 1000 * LIMIT


def test_a_sync_sends_the_adapter_alone(found):
    for rank in found:
        assert rank["bytes"] == 4 * rank["adapter numbers"] < 0.05 * rank["whole bytes"]


def test_the_start_finds_an_engine_that_does_not_apply_it(found):
    for rank in found:
        assert rank["probe"] <= LIMIT and rank["probe leaves it"]
        assert "the engine does not apply it" in rank["ignored"]


def test_models_that_vllm_has_no_adapters_for_are_refused(found):
    """By their classes; the engine would end with a traceback, or leave a tower's out."""
    for rank in found:
        if "refused" in rank:
            whole, tower = rank["refused"]
            assert whole.startswith("policy.lora.rank: vLLM has no adapters for a LlavaOnevision")
            assert "no adapters in the vision tower or the projector of a Qwen2_5Omni" in tower


def test_both_exports_are_the_policy_in_fresh_engines(found):
    for rank in found:
        if "exports" in rank:
            assert max(rank["exports"]["merged"].values()) <= LIMIT
            assert max(rank["exports"]["adapter"].values()) <= LIMIT
            assert rank["exports"]["files"] == ["adapter_config.json", "adapter_model.safetensors"]
