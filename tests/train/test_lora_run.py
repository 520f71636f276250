"""A mixture of experts with an adapter on its attention, trained beside real engines, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from caprl_native import checkpoint
from caprl_native.config.lora import LoraConfig
from tests.test_checkpoint import export_tool
from tests.train.world import rows, tiny_config, train, train_ok


@pytest.fixture(scope="module")
def run(world, tiny_policy_moe, tiny_reader, tmp_path_factory) -> Path:
    """Two steps in bfloat16 on two ranks, with a KL term, clipping and moments in bfloat16."""
    folder = tmp_path_factory.mktemp("lora")
    config = tiny_config(world, tiny_policy_moe, tiny_reader, folder / "run")
    config.run.steps, config.run.save_every, config.run.export_every_save = 2, 1, True
    config.policy.lora = LoraConfig(rank=2)
    config.policy.lr, config.policy.optimizer_dtype = 1e-2, "bfloat16"
    config.algorithm.kl = {"type": "k3", "weight": 0.1}
    return train_ok(config, folder / "run.toml")


def test_trainer_and_engine_agree_at_every_step(run):
    lines = [line for line in rows(run / "metrics.jsonl") if "policy/loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["mismatch/logprob_abs_mean"] <= 0.01 and line["policy/grad_norm"] > 0, line
        assert 0 < line["perf/sync_mib"] < 0.1
    assert lines[0]["policy/kl"] == 0.0 < lines[1]["policy/kl"]


def test_it_goes_on_from_a_checkpoint_bit_for_bit(run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(checkpoint.directory(again / "checkpoints", 2))
    shutil.rmtree(again / "export")
    code, output = train(run.parent / "run.toml", f"--run.dir={again}", "--resume", "latest")
    assert code == 0, output[-6000:]
    adapter = "checkpoints/step_00000002/hf/adapter_model.safetensors"
    for file in ("export/model.safetensors", adapter):
        assert (again / file).read_bytes() == (run / file).read_bytes(), file


def test_both_exports_can_be_made_of_a_checkpoint(run, tiny_policy_moe, tmp_path):
    step = checkpoint.directory(run / "checkpoints", 2)
    for form in ("merged", "adapter"):
        words = ["--checkpoint", run, "--to", tmp_path / form, f"--{form}"]
        assert export_tool(words) == 0
    for made, written in (("merged", run / "export"), ("adapter", step / "hf")):
        weights = next(tmp_path.joinpath(made).glob("*.safetensors"))
        assert weights.read_bytes() == (written / weights.name).read_bytes()
    state = json.loads((step / "state.json").read_text())["base"]
    assert state["path"] == str(tiny_policy_moe) and list(state["files"]) == ["model.safetensors"]
