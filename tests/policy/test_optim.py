"""The optimizer: its state is there before an engine starts, and its numbers are AdamW's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from caprl_native import trainer
from caprl_native.config.schema import Config, PolicyConfig
from caprl_native.policy.optim import build_optimizer
from tests.train.world import write_rows

STATE = ["step", "exp_avg", "exp_avg_sq"]


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(37, 64), nn.LayerNorm(64), nn.Linear(64, 5))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    """Steps whose gradients depend on the weights and the step's number."""
    for step in range(first, first + steps):
        for p in model.parameters():
            p.grad = torch.sin(p.detach() * 50 + step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_state_is_allocated_at_once_and_steps_are_what_they_would_be():
    config = PolicyConfig(lr=1e-2, weight_decay=0.1)
    ours, theirs = small_model(), small_model()
    early = build_optimizer(ours, config)
    assert [list(early.state[p]) for p in ours.parameters()] == [STATE] * 6
    late = build_optimizer(theirs, config)
    late.state.clear()  # as torch makes it: the first step allocates
    train(ours, early, 3)
    train(theirs, late, 3)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(early.state[p][key], late.state[q][key]) for key in STATE)


class EngineStarts(Exception):
    pass


def test_all_that_training_keeps_is_allocated_before_the_engine(
    tiny_policy, tmp_path, dims, monkeypatch
):
    """An engine takes a share of the memory; what comes later would not find it."""
    question = {"question": "What is it?", "choices": ["a", "b"], "answer": "A"}
    record = {"image": "a.png", "questions": [question]}
    config = Config()
    config.run.dir, config.data.batch_size, config.data.workers = str(tmp_path / "run"), 1, 0
    config.data.files = [str(write_rows(tmp_path / "train.jsonl", [record]))]
    config.policy.path, config.policy.dtype = str(tiny_policy), "float32"
    config.algorithm.kl.weight = 0.1
    there = []

    def start(config, policy):
        there.append(list(seen))
        raise EngineStarts

    seen = []
    for name in ("load_policy", "build_optimizer"):
        monkeypatch.setattr(trainer, name, _noted(seen, name, getattr(trainer, name)))
    monkeypatch.setattr(trainer, "policy_engine", start)
    with pytest.raises(EngineStarts):
        trainer.Trainer(config, dims)
    assert there == [["load_policy", "build_optimizer", "load_policy"]], "policy and reference"


def _noted(seen: list[str], name: str, function):
    def call(*args, **kwargs):
        made = function(*args, **kwargs)
        seen.append(name)
        return made

    return call
