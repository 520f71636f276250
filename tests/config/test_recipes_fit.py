"""The recipes for GPUs of 80 GB fit, by the plan, at the models' published shapes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from caprl_native.config.cli import load
from caprl_native.config.schema import Config
from caprl_native.dry_run import needs_of
from caprl_native.memory_plan import GIB, GPUS, Needs
from caprl_native.policy.families import family_of
from caprl_native.policy.lora import add_adapter
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.model_check import read_config
from caprl_native.policy.model_size import ModelSize

PUBLISHED = Path(__file__).parent / "published"  # config.json of the models, without weights
MEMORY = GPUS["80 GB (A100, H100)"] * GIB
MARGIN = 0.08  # of the GPU: what fragments, and what an estimate leaves out


def size(path: Path) -> ModelSize:
    """As the weights' headers would tell it."""
    hf = load_hf(path, empty=True)
    hf.tie_weights()
    shapes = {n: tuple(p.shape) for n, p in hf.named_parameters()}
    return ModelSize({n: math.prod(s) for n, s in shapes.items()}, read_config(path), shapes)


def needs(files: list[str], ranks: int) -> Needs:
    config = load(Config, files)
    model = PUBLISHED / Path(config.policy.path).name
    config.policy.path = str(model)
    reader = PUBLISHED / "Qwen3-4B-Instruct-2507"
    return needs_of(config, size(model), size(reader), ranks)


@pytest.mark.parametrize(
    ("setting", "ranks", "parameters"),
    [("one_80gb_2b.toml", 1, 2_127_532_032), ("four_80gb_4b.toml", 4, 4_437_815_808)],
)
@pytest.mark.parametrize("recipe", ["video.toml", "image.toml"])
def test_both_peaks_fit_with_a_margin(recipe, setting, ranks, parameters):
    plan = needs([recipe, setting], ranks)
    assert plan.policy.total == parameters, "as published"
    rollout, training = plan.peaks(MEMORY).totals
    assert rollout < (1 - MARGIN) * MEMORY
    assert plan.cached_tokens(MEMORY) > 8 * plan.config.rollout.max_model_len
    assert training < (1 - MARGIN) * MEMORY


@pytest.mark.parametrize("setting", ["one_80gb_2b.toml", "four_80gb_4b.toml"])
def test_an_adapter_takes_less_and_a_sync_sends_under_a_hundredth(setting):
    """Its size by names and shapes is that of the adapter which the model is given."""
    plan, full = needs(["video.toml", setting, "lora.toml"], 1), needs(["video.toml", setting], 1)
    assert plan.trainable < 0.01 * plan.policy.total == 0.01 * full.policy.total
    assert plan.peaks(MEMORY).totals[1] < full.peaks(MEMORY).totals[1] - 10 * plan.policy.total
    path = plan.config.policy.path
    policy = Policy(load_hf(path, empty=True), family_of(path))
    add_adapter(policy, plan.config.policy.lora)
    assert plan.trainable == sum(p.numel() for p in policy.parameters() if p.requires_grad)


def test_without_the_setting_one_gpu_is_too_small():
    rollout, _ = needs(["video.toml"], 1).verdicts(MEMORY)
    assert rollout.startswith("NO")
