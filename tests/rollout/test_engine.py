"""The real engine beside the real trainer, on two ranks: do they hold and compute the same?"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ranks import run_ranks

LIMIT = {"float32": 1e-4, "bfloat16": 0.005}  # nats, mean over tokens
# In bfloat16 the engine's router chooses other experts now and then than the trainer's in float32.
LIMIT["bfloat16, experts"] = 0.01
KINDS = {"image", "images", "video", "mixed", "text"}


@pytest.fixture(scope="module")
def found(tiny_policy):
    """What tests/programs/engines.py found with Qwen3-VL in float32, by rank."""
    return run_ranks("engines", 2, tiny_policy, "float32", 1, "all")


def within(gaps: dict[str, list[float]], dtype: str = "float32") -> bool:
    return gaps.keys() == KINDS and all(mean <= LIMIT[dtype] for mean, _ in gaps.values())


def agree(found: dict, dtype: str) -> None:
    """Within the limit after a sync, and far outside it before."""
    for gaps in found["gaps"]:
        assert within(gaps, dtype), gaps
    assert all(mean > 10 * LIMIT[dtype] for mean, _ in found["stale"].values()), found["stale"]
    assert found["head"] == ["torch.float32"]


def test_they_agree_after_every_sync(found):
    for rank in found:
        agree(rank["agreement"], "float32")
    assert found[0]["agreement"]["tokens"] != found[1]["agreement"]["tokens"]  # own prompts each


def test_log_probs_are_those_of_the_tempered_distribution(found):
    assert all(within(rank["temperatures"]) for rank in found)


def test_log_probs_are_those_of_the_truncated_distribution(found):
    for rank in found:
        assert rank["truncation"]["same"]
        for name in ("top_p", "top_k"):
            assert all(value == 0.0 for value in rank["truncation"][name])


def test_the_trainer_scores_what_top_k_and_top_p_have_cut_from(found):
    """So that trainer and engine differ by the log of the probability that is left."""
    for rank in found:
        for engine, trainer, left in rank["truncation"]["first"]:
            assert left < -0.2 and trainer - engine == pytest.approx(left, abs=1e-3)


def test_greedy_takes_the_trainers_likeliest_token(found):
    assert all(rank["greedy"] == [True] * 5 for rank in found)


def test_media_tokens_are_never_sampled(found):
    for with_ban, without in (rank["pads"] for rank in found):
        assert with_ban == 0 < without


def test_a_seed_decides_every_bit(found):
    for rank in found:
        assert all(rank["seeds"].values()), rank["seeds"]


def test_texts_are_those_of_vllms_detokenizer(found):
    """But for the space before the first word, which is the prompt's and not the caption's."""
    for ours, theirs in (rank["texts"] for rank in found):
        assert [text.strip() for text in ours] == [text.strip() for text in theirs]
        assert len(set(ours)) > 3


def test_positions_are_the_engines_own(found):
    assert all(rank["positions"] == [True] * 5 for rank in found)


def test_new_vision_weights_are_seen_in_a_known_picture(found):
    for rank in found:
        changed = {"image": True, "images": True, "video": True, "mixed": True, "text": False}
        assert rank["vision"]["changed"] == changed
        assert within(rank["vision"]["gaps"])


def test_a_frozen_vision_tower_need_not_be_sent(found):
    for rank in found:
        assert rank["frozen"]["parts"] == ["language", "projector"]
        assert rank["frozen"]["same"] and within(rank["frozen"]["gaps"])


def test_the_self_check_finds_weights_that_were_not_sent(found):
    for rank in found:
        assert rank["self_check"]["gap"] < LIMIT["float32"]
        assert rank["self_check"]["tokens"] == 64
        for part in ("vision", "projector", "language"):
            assert "does not hold the trainer's weights" in rank["self_check"][part], part


def test_another_number_of_media_tokens_is_an_error_that_names_the_sample(found):
    for rank in found:
        name, error = rank["mismatch"]
        assert name == "cat 17" and error.startswith("sample cat 17 ")
        assert "they part at position" in error


def test_captions_are_handed_over_when_they_end(found):
    for rank in found:
        seen = rank["passes"]
        assert seen["passes"] <= 49 and seen["with captions"] > 1
        assert seen["each once"] and seen["same"]
        open_requests, left = seen["open, left"]
        assert open_requests > 0 and left == 0


def test_when_a_prompt_is_submitted_changes_no_bit(found):
    """One a pass, rendered in a thread or not, instead of all before the first."""
    for rank in found:
        seen = rank["passes"]
        assert list(seen["late"].values()) == [True, True]
        assert all(0 < opened <= 16 for opened in seen["late, open at first"])


@pytest.fixture
def remains() -> Iterator[None]:
    """What a killed run with a tensor-parallel engine left, under the name that vLLM gave it."""
    files = [Path(f"/dev/shm/-tp:0-[0-1]-cpushm_{rank}") for rank in range(2)]
    for file in files:
        file.touch()
    yield
    for file in files:
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("family", "dtype", "tensor_parallel"),
    [
        ("tiny_policy", "bfloat16", 2),
        ("tiny_policy_2_5", "float32", 2),
        ("tiny_policy_2_5", "bfloat16", 1),
        ("tiny_policy_moe", "float32", 2),
        ("tiny_policy_moe", "bfloat16", 1),
    ],
)
def test_families_precisions_and_tensor_parallel_engines_agree(
    request, remains, family, dtype, tensor_parallel
):
    path = request.getfixturevalue(family)
    found = run_ranks("engines", 2, path, dtype, tensor_parallel, "agreement,positions")
    limit = "bfloat16, experts" if (family, dtype) == ("tiny_policy_moe", "bfloat16") else dtype
    for rank in found:
        agree(rank["agreement"], limit)
        assert rank["positions"] == [True] * 5
    if tensor_parallel == 2:  # one engine: both ranks hold the same captions
        assert found[0]["agreement"]["tokens"] == found[1]["agreement"]["tokens"]
