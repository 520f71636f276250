"""The optimizer: its state is there before an engine starts, and its numbers are AdamW's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from caprl_native import checkpoint, trainer
from caprl_native.config.schema import Config, PolicyConfig
from caprl_native.policy.fsdp import full_tensor, load_policy
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


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [optimizer.state[p][key] for p in model.parameters() for key in STATE[1:]]


def test_fetching_the_moments_changes_no_number():
    """What offloading does, but for the places: on a CPU both are the host's memory."""
    config = PolicyConfig(lr=1e-2, weight_decay=0.1)
    ours, theirs = small_model(), small_model()
    stored = build_optimizer(ours, config.replace(optimizer_offload=True))
    plain = build_optimizer(theirs, config)
    train(ours, stored, 4)
    train(theirs, plain, 4)
    assert type(stored) is not type(plain)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(stored.state[p][key], plain.state[q][key]) for key in STATE)


def test_moments_in_bfloat16_take_half_and_follow_those_in_float32():
    config = PolicyConfig(lr=1e-2)
    ours, theirs = small_model(), small_model()
    half = build_optimizer(ours, config.replace(optimizer_dtype="bfloat16"))
    whole = build_optimizer(theirs, config)
    sizes = [sum(m.nbytes for m in moments(*pair)) for pair in ((ours, half), (theirs, whole))]
    assert 2 * sizes[0] == sizes[1] == 8 * sum(p.numel() for p in ours.parameters())
    train(ours, half, 20)
    train(theirs, whole, 20)
    assert {m.dtype for m in moments(ours, half)} == {torch.bfloat16}
    start = small_model()
    for p, q, s in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert (p - q).norm() < 0.05 * (q - s).norm()


def test_a_moment_in_bfloat16_decays():
    """At 0.95 a step takes off 5%, where rounding could hold 0.2%."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(model, PolicyConfig(optimizer_dtype="bfloat16"))
    state = optimizer.state[model.weight]
    state["exp_avg_sq"].fill_(1.0)
    for _ in range(100):
        model.weight.grad = torch.zeros(1, 1)
        optimizer.step()
    assert state["exp_avg_sq"].item() == pytest.approx(0.95**100, rel=0.1)


@pytest.mark.parametrize(
    "option", [{"optimizer_offload": True}, {"optimizer_dtype": "bfloat16"}], ids=str
)
def test_a_run_resumes_exactly_with_each_option(option, tiny_policy, tmp_path, dims):
    config = PolicyConfig(path=str(tiny_policy), dtype="float32", lr=1e-3, **option)
    first, second = (load_policy(config, dims) for _ in range(2))
    saved, loaded = (build_optimizer(policy, config) for policy in (first, second))
    train(first, saved, 2)
    checkpoint.save(tmp_path, 2, first, saved, {}, keep=1)
    checkpoint.load(tmp_path, 2, second, loaded)
    for model, optimizer in ((first, saved), (second, loaded)):
        train(model, optimizer, 2, first=2)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(full_tensor(p), full_tensor(q))
        for key in STATE:
            ours, theirs = saved.state[p][key], loaded.state[q][key]
            assert ours.dtype == theirs.dtype and torch.equal(
                full_tensor(ours), full_tensor(theirs)
            )


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
