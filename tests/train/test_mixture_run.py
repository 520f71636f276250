"""A mixture of experts trained on two ranks with a real engine on each; checkpoints, exports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from caprl_native import checkpoint
from caprl_native.export import export_checkpoint
from caprl_native.policy.model import load_hf
from tests.ranks import run_ranks
from tests.test_checkpoint import same
from tests.train.world import rows, tiny_config, train, train_ok


@pytest.fixture(scope="module")
def run(world, tiny_policy_moe, tiny_reader, tmp_path_factory) -> Path:
    """Three steps in bfloat16, with weight decay, clipping and moments in bfloat16."""
    folder = tmp_path_factory.mktemp("mixture")
    config = tiny_config(world, tiny_policy_moe, tiny_reader, folder / "run")
    config.run.steps, config.run.save_every = 3, 2
    config.policy.weight_decay, config.policy.optimizer_dtype = 0.1, "bfloat16"
    return train_ok(config, folder / "run.toml")


def test_trainer_and_engine_agree_at_every_step(run):
    """Where the engine's router, in bfloat16, chooses another expert, a token is further off."""
    lines = [line for line in rows(run / "metrics.jsonl") if "policy/loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["mismatch/logprob_abs_mean"] <= 0.01 and line["policy/grad_norm"] > 0, line


def test_it_goes_on_from_a_checkpoint_bit_for_bit(run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(checkpoint.directory(again / "checkpoints", 3))
    shutil.rmtree(again / "export")
    code, output = train(run.parent / "run.toml", f"--run.dir={again}", "--resume", "latest")
    assert code == 0, output[-6000:]
    ours, theirs = (load_file(f / "export" / "model.safetensors") for f in (again, run))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_another_number_of_ranks_goes_on_and_a_fresh_engine_on_its_export_agrees(
    tiny_policy_moe, tmp_path
):
    """Four steps of two ranks; one rank loads them, exports what it loaded, and makes a fifth."""
    run_ranks("checkpoints", 2, "save", tiny_policy_moe, tmp_path)
    (found,) = run_ranks("checkpoints", 1, "load", tiny_policy_moe, tmp_path, "engine")
    assert same(tmp_path / "loaded_1.pt", tmp_path / "saved.pt")
    assert same(tmp_path / "load_1_and_on.pt", tmp_path / "save_2_and_on.pt")
    assert max(found["gaps"]) < 1e-4  # nats, float32; of an image and of a video


def test_an_export_is_laid_out_as_published_and_can_be_made_of_a_checkpoint(
    run, tiny_policy_moe, tmp_path
):
    export_checkpoint(run / "checkpoints", 3, tiny_policy_moe, tmp_path / "made", "bfloat16")
    made, written = (f / "model.safetensors" for f in (tmp_path / "made", run / "export"))
    assert made.read_bytes() == written.read_bytes()
    source, trained = load_file(tiny_policy_moe / "model.safetensors"), load_file(written)
    assert {n: t.shape for n, t in trained.items()} == {n: t.shape for n, t in source.items()}
    moved = {n for n, t in trained.items() if not torch.equal(t, source[n].bfloat16())}
    assert {n for n in source if ".mlp." in n and "language" in n} <= moved
    for name, held in load_hf(run / "export").named_parameters():
        stored = trained[name].float()
        assert torch.equal(held, stored.transpose(1, 2) if ".experts." in name else stored), name
