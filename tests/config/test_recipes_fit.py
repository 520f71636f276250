"""The recipes for GPUs of 80 GB fit, by the plan, at the models' published shapes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from caprl_native.config.cli import load
from caprl_native.config.schema import Config
from caprl_native.dry_run import needs_of
from caprl_native.memory_plan import GIB, GPUS, Needs
from caprl_native.policy.adapting import add_adapter
from caprl_native.policy.families import family_of
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


@pytest.fixture
def internvl(tmp_path) -> Path:
    """InternVL3.5-8B in transformers' format, by the shapes that its authors name."""
    from transformers import InternVLConfig

    text = dict(
        model_type="qwen3", vocab_size=151_936, hidden_size=4096, intermediate_size=12_288,
        num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        tie_word_embeddings=False,
    )  # fmt: skip
    vision = dict(attention_bias=True)  # 24 layers of width 1024, as the class has it
    config = InternVLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False,
        architectures=["InternVLForConditionalGeneration"],
    )  # fmt: skip
    config.save_pretrained(tmp_path / "InternVL3_5-8B-HF")
    return tmp_path / "InternVL3_5-8B-HF"


def test_internvl_of_8b_fits_eight_gpus_of_80_gb(internvl):
    config = load(Config, ["caprl_internvl.toml"])
    config.policy.path = str(internvl)
    model, reader = size(internvl), size(PUBLISHED / "Qwen3-4B-Instruct-2507")
    assert 8.4e9 < model.total < 8.6e9
    plan = needs_of(config, model, reader, 8)
    rollout, training = plan.peaks(MEMORY).totals
    assert rollout < (1 - MARGIN) * MEMORY and training < (1 - MARGIN) * MEMORY
