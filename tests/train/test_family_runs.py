"""A whole run of every family that is no Qwen-VL: images and videos, an engine, a checkpoint.

LLaVA-OneVision's trains an adapter, of which the engine gets whole weights.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from caprl_native import checkpoint
from caprl_native.config.lora import LoraConfig
from caprl_native.policy.model import load_hf
from caprl_native.testing.tiny_families import WRITERS
from tests.train.world import rows, tiny_config, train, train_ok

# Of a mean over tokens, nats: float32 where the engine has it, else bfloat16.
BOUNDS = {"internvl": 1e-4, "llava_onevision": 1e-4, "qwen3_5": 0.005}


@pytest.mark.parametrize("family", BOUNDS)
def test_a_run_learns_agrees_with_its_engine_and_resumes(family, world, tiny_reader, tmp_path):
    path = WRITERS[family](tmp_path / family)
    config = tiny_config(world, path, tiny_reader, tmp_path / "run")
    config.policy.dtype = "float32" if BOUNDS[family] < 1e-3 else "bfloat16"
    config.data.max_prompt_tokens, config.rollout.max_model_len = 400, 448
    config.media.tiles_max = 4
    if family == "llava_onevision":  # for which vLLM has no adapters
        config.policy.lora = LoraConfig(rank=4, sync="merged")
    folder = train_ok(config, tmp_path / "run.toml", ranks=1)
    steps = [line for line in rows(folder / "metrics.jsonl") if "policy/loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        assert line["mismatch/logprob_abs_mean"] <= BOUNDS[family], line
        assert line["policy/grad_norm"] > 0
    load_hf(str(folder / "export"))
    trained = load_file(folder / "export" / "model.safetensors")
    before = load_file(path / "model.safetensors")
    assert trained.keys() == before.keys()
    assert not all(torch.equal(t, trained[n]) for n, t in before.items())

    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(checkpoint.directory(again / "checkpoints", 2))
    shutil.rmtree(again / "export")
    code, output = train(tmp_path / "run.toml", f"--run.dir={again}", "--resume", "latest", ranks=1)
    assert code == 0, output[-6000:]
    resumed = load_file(again / "export" / "model.safetensors")
    assert all(torch.equal(t, resumed[name]) for name, t in trained.items())
