"""The arithmetic of an update, by formula and as torch counts it while one runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from caprl_native.config.lora import LoraConfig
from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
from caprl_native.observe.rates import PEAKS, rates
from caprl_native.policy.flops import Flops, Work
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.optim import build_optimizer
from caprl_native.testing.samples import group, prompt, responses
from caprl_native.testing.tiny_families import WRITERS

aten = torch.ops.aten
KINDS = ["video", "images", "text", "image"]
N, LENGTH = 3, 9  # responses of one length: their table has no padding


def pairs(query: list[int], key: list[int], causal: bool) -> int:
    batch, heads, rows, size = query
    seen = rows * (rows + 1) // 2 if causal else rows * key[2]
    return 4 * batch * heads * seen * size


def forward(query, key, value, dropout=0.0, is_causal=False, **_):
    return pairs(query, key, is_causal)


def backward(upstream, query, key, value, out, logz, dropout, is_causal, **_):
    return 2 * pairs(query, key, is_causal)


# The CPU's kernel, which torch does not count.
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: forward,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
}


def counted(
    path: Path, dims, kl: float, freeze: list[str], updates: int, lora: LoraConfig | None = None
) -> tuple[float, float]:
    """What torch counts in an update, without the head's second computation; and the formula."""
    config = PolicyConfig(
        path=str(path),
        dtype="float32",
        freeze=freeze,
        activation_checkpointing=False,
        lora=lora or LoraConfig(),
    )
    policy = load_policy(config, dims)
    everything = config.replace(freeze=["vision", "projector", "language"], lora=LoraConfig())
    longest = max(len(prompt(path, kind)) for kind in KINDS) + N * LENGTH
    config = config.replace(micro_batch_tokens=longest + 1)  # one group each: no padding
    algorithm = AlgorithmConfig(updates=updates, kl={"type": "k3", "weight": kl})
    learner = Learner(
        policy=policy,
        reference=None if not kl else policy if lora else load_policy(everything, dims),
        optimizer=build_optimizer(policy, config),
        config=config,
        algorithm=algorithm,
        temperature=1.0,
        max_tokens=12,
        total_steps=1,
        dims=dims,
    )
    legal = responses(policy.config, policy.banned, N, 0)
    groups = [
        group(prompt(path, kind), [r[:1] * LENGTH for r in legal], i)
        for i, kind in enumerate(KINDS)
    ]
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as mode:
        learner.update(groups, step=0)
    again = Flops.of(policy).answer * N * LENGTH * len(KINDS)
    return mode.get_total_flops() - again, learner.work.flops


CASES = {
    "all": (0.0, [], 1),
    "frozen vision": (0.0, ["vision"], 1),
    "language alone": (0.0, ["vision", "projector"], 1),
    "vision alone": (0.0, ["projector", "language"], 1),
    "reference, two updates": (0.1, [], 2),
}


ADAPTERS = {
    "language": (0.0, [], 1, LoraConfig(rank=8)),
    "all, the policy its own reference": (
        0.1,
        [],
        2,
        LoraConfig(rank=4, targets=["vision", "projector", "language"]),
    ),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_are_counted_and_no_gradients_of_frozen_weights(tiny_policy, dims, case):
    ran, formula = counted(tiny_policy, dims, *ADAPTERS[case])
    assert formula == pytest.approx(ran, rel=0.03)


@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_what_torch_counts(tiny_policy, dims, case):
    ran, formula = counted(tiny_policy, dims, *CASES[case])
    assert formula == pytest.approx(ran, rel=0.03)


def test_windows_of_qwen2_5_vl_are_counted(tiny_policy_2_5, dims):
    ran, formula = counted(tiny_policy_2_5, dims, *CASES["all"])
    assert formula == pytest.approx(ran, rel=0.03)


def test_tiles_are_counted(tmp_path, dims):
    ran, formula = counted(WRITERS["internvl"](tmp_path / "internvl"), dims, *CASES["all"])
    assert formula == pytest.approx(ran, rel=0.03)


def test_rates_are_per_gpu_and_there_is_no_utilisation_of_an_unknown_one():
    work = Work(flops=8e15, tokens=40_000)
    assert rates(work, seconds=2.0, ranks=4) == {
        "perf/tflops_per_gpu": 1000.0,
        "perf/train_tokens_per_s_per_gpu": 5000.0,
    }
    for name, peak in {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H200": 989e12,
        "NVIDIA H20": 148e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA B200": 2250e12,
    }.items():
        assert rates(work, 2.0, 4, name)["perf/mfu"] == 1e15 / peak
    assert "perf/mfu" not in rates(work, 2.0, 4, "some other card")
    assert all(peak > 0 for peak in PEAKS.values())
