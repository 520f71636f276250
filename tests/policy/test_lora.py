"""Adapters without an engine: what is computed, what is dropped, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from caprl_native import checkpoint
from caprl_native.base_model import BaseModel
from caprl_native.checkpoint_files import CheckpointError
from caprl_native.config.cli import ConfigError, load_with_origins
from caprl_native.config.lora import LoraConfig
from caprl_native.config.rules import check, check_sft
from caprl_native.config.schema import Config, PolicyConfig, SftConfig
from caprl_native.dry_run import plan_sft
from caprl_native.export import Exporter
from caprl_native.policy.adapting import add_adapter, probing
from caprl_native.policy.compiling import compile_blocks
from caprl_native.policy.examples import scored_row
from caprl_native.policy.families import family_of
from caprl_native.policy.fsdp import load_policy, local_shard
from caprl_native.policy.lora import kept
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.supervised import SupervisedLearner
from caprl_native.rollout.weight_sync import stream
from caprl_native.testing.samples import prompt, relative, responses


def policy_of(path: Path, dims, **settings):
    lora = LoraConfig(**{"rank": 4, "alpha": 6.0, **settings})
    return load_policy(PolicyConfig(path=str(path), dtype="float32", lora=lora), dims, seed=1)


def batch_of(policy, path: Path):
    given, tokens = prompt(path, "image"), responses(policy.config, policy.banned, 3, 1)
    return collate([PackedRow(given, tokens, [0, 1, 2])], policy.positions)


def test_adapted_layers_are_layers_with_merged_weights(tiny_policy, dims):
    """Log-probs alike, and the gradients of A and B those of W + s B A by the chain rule."""
    policy = policy_of(tiny_policy, dims, targets=["language", "vision", "projector"])
    plain = load_policy(PolicyConfig(path=str(tiny_policy), dtype="float32"), dims)
    batch = batch_of(policy, tiny_policy)
    with probing(policy):
        weights = dict(stream(policy, torch.float32))
        ours = policy(batch).logprobs
        ours.sum().backward()
    with torch.no_grad():
        for name, parameter in plain.hf.named_parameters():
            local_shard(parameter).copy_(weights[name])
    theirs = plain(batch).logprobs
    theirs.sum().backward()
    assert (ours - theirs).abs().max() < 1e-4
    whole = {n: local_shard(p.grad) for n, p in plain.hf.named_parameters()}
    with probing(policy):
        layers = policy.adapter.layers.items()
        scale = policy.adapter.config.scale
        expected = {f"{n} b": scale * whole[f"{n}.weight"] @ local(m.lora_a).T for n, m in layers}
        expected |= {f"{n} a": scale * local(m.lora_b).T @ whole[f"{n}.weight"] for n, m in layers}
    found = {f"{n} b": local_shard(m.lora_b.grad) for n, m in layers}
    found |= {f"{n} a": local_shard(m.lora_a.grad) for n, m in layers}
    assert relative(found, expected) < 1e-4
    assert all(p.grad is None for p in policy.parameters() if not p.requires_grad)


def local(parameter: torch.Tensor) -> torch.Tensor:
    return local_shard(parameter.detach())


def test_dropout_follows_from_its_key_and_survives_recomputation(tiny_policy, dims):
    policy = policy_of(tiny_policy, dims, dropout=0.3)
    batch, gradients = batch_of(policy, tiny_policy), []
    for key in (1, 1, 2):
        for block in policy.blocks:
            block.gradient_checkpointing = len(gradients) == 0
        policy.adapter.draw_from(key, device=dims.device)
        policy.zero_grad()
        with probing(policy):
            policy(batch).logprobs.sum().backward()
        gradients.append(
            {
                n: local_shard(p.grad).clone()
                for n, p in policy.named_parameters()
                if p.requires_grad
            }
        )
    assert relative(gradients[0], gradients[1]) < 1e-5  # one of them recomputed
    assert relative(gradients[0], gradients[2]) > 0.01
    with torch.no_grad(), probing(policy):  # a pass that only scores drops nothing
        assert torch.equal(policy(batch).logprobs, policy(batch).logprobs)
    drawn = kept(torch.zeros(400, 500), torch.tensor(11), 0.3).float()
    assert drawn.mean().item() == pytest.approx(0.7, abs=0.005)
    assert (drawn.mean(0) - 0.7).abs().max() < 0.12 and (drawn.mean(1) - 0.7).abs().max() < 0.12


def test_supervised_steps_with_dropout_go_on_bit_for_bit(tiny_policy, dims, tmp_path):
    """The loss falls; a run from the checkpoint drops what the unbroken one dropped."""
    lora = LoraConfig(rank=4, dropout=0.2)
    settings = {"path": str(tiny_policy), "dtype": "float32", "micro_batch_tokens": 150}
    config = PolicyConfig(**settings, lr=1e-2, lora=lora)

    def learner() -> SupervisedLearner:
        policy = load_policy(config, dims, seed=1)
        return SupervisedLearner(policy, build_optimizer(policy, config), config, 4, dims)

    unbroken, again = learner(), learner()
    told = responses(unbroken.policy.config, unbroken.policy.banned, 2, 0)
    kinds = zip(("image", "video"), told, strict=True)
    rows = [scored_row(prompt(tiny_policy, k), tokens, (), "response") for k, tokens in kinds]
    losses = []
    for step in (1, 2, 3, 4):
        losses.append(unbroken.update(rows, step)["policy/loss"])
        if step == 2:
            checkpoint.save(tmp_path, 2, unbroken.policy, unbroken.optimizer, {}, keep=1)
    checkpoint.load(tmp_path, 2, again.policy, again.optimizer)
    assert [again.update(rows, step)["policy/loss"] for step in (3, 4)] == losses[2:]
    assert losses[3] < losses[0] - 0.1
    ours, theirs = (first_and_last(one.policy) for one in (unbroken, again))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def first_and_last(policy) -> list[torch.Tensor]:
    layers = list(policy.adapter.layers.values())
    return [local(p) for m in (layers[0], layers[-1]) for p in (m.lora_a, m.lora_b)]


def test_adapted_blocks_are_compiled_whole_and_once_for_all(tiny_policy):
    """With dropout and without the adapter; as on CUDA, but traced alone."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    policy = Policy(load_hf(tiny_policy), family_of(tiny_policy))
    add_adapter(policy, LoraConfig(rank=4, dropout=0.2))
    for parameter in (p for p in policy.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    adapter = policy.adapter
    adapter.draw_from(1, device=torch.device("cpu"))
    x = torch.randn(2, 7, 128, generator=torch.Generator().manual_seed(0))
    mlps = [layer.mlp for layer in policy.family.language_layers(policy.hf)]
    plain = [mlp(x) for mlp in mlps]
    assert not torch.equal(plain[0], mlps[0](x * 0.999))
    compile_blocks(mlps, backend="aot_eager")
    for mlp, expected in zip(mlps, plain, strict=True):
        torch.testing.assert_close(mlp(x), expected)
    with adapter.off():
        off = mlps[0](x)
    assert (off - plain[0]).abs().max() > 0.01
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
    torch.compiler.reset()


def test_the_frozen_rest_is_in_compute_precision_and_the_adapter_in_float32(tiny_policy, dims):
    lora = LoraConfig(rank=2, targets=["q_proj", "vision.qkv"])
    policy = load_policy(PolicyConfig(path=str(tiny_policy), lora=lora), dims)
    kinds = {(p.requires_grad, p.dtype) for p in policy.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    names = {name.rpartition(".")[2] for name in policy.adapter.layers}
    assert names == {"q_proj", "qkv"}


def test_an_adapters_files_are_pefts(tiny_policy, dims, tmp_path):
    policy = policy_of(tiny_policy, dims)
    Exporter(policy, tiny_policy, "float32")(tmp_path / "hf")
    settings = json.loads((tmp_path / "hf/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (4, 6, "LORA")
    assert settings["base_model_name_or_path"] == str(tiny_policy)
    tensors = load_file(tmp_path / "hf/adapter_model.safetensors")
    layer = "model.language_model.layers.0.self_attn.q_proj"
    assert layer in settings["target_modules"] and len(tensors) == 2 * len(policy.adapter.layers)
    held = policy.adapter.layers[layer]
    for name, tensor in {"lora_A": held.lora_a, "lora_B": held.lora_b}.items():
        assert torch.equal(tensors[f"base_model.model.{layer}.{name}.weight"], local(tensor))


def test_another_base_or_scale_is_refused(tiny_policy, tiny_policy_2_5):
    lora = LoraConfig(rank=2)
    state = json.loads(json.dumps(BaseModel(str(tiny_policy), lora).state_dict()))
    BaseModel(str(tiny_policy), lora).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"policy.path = .* holds other weights"):
        BaseModel(str(tiny_policy_2_5), lora).load_state_dict(state)
    with pytest.raises(CheckpointError, match="scale alpha / rank = 2, policy.lora says 4"):
        BaseModel(str(tiny_policy), LoraConfig(rank=2, alpha=8.0)).load_state_dict(state)


def test_targets_that_the_model_lacks_are_named(tiny_policy, tiny_policy_moe, tiny_reader, dims):
    paths = {"w1": tiny_policy, "experts": tiny_policy_moe, "vision": tiny_reader}
    for target, path in paths.items():
        message = f"policy.lora.targets.*: a .* has no linear layer '{target}'"
        with pytest.raises(ModelError, match=message):
            policy_of(path, dims, targets=[target])
        config = SftConfig()
        config.policy.path, config.data.files = str(path), ["unknown.jsonl"]
        config.policy.lora = LoraConfig(rank=2, targets=[target])
        with pytest.raises(ConfigError, match=message):
            plan_sft(config, 1)


CONTRADICTIONS = [
    ({"rank": 8}, "", 'freeze = ["vision"]\n', "policy.freeze: expected \\[\\] with an adapter"),
    ({"rank": 8, "dropout": 0.1}, "train", "", "policy.lora.dropout: expected 0: the engine"),
    ({"alpha": 16.0}, "", "", "policy.lora.alpha: expected 0.0 without an adapter"),
    ({"targets": ["q_proj"]}, "", "", "policy.lora.targets: expected .* without an adapter"),
    ({"rank": 8, "targets": []}, "", "", "policy.lora.targets: expected parts"),
    ({"rank": 8, "targets": ["eyes.qkv"]}, "", "", "policy.lora.targets: expected parts"),
    ({"rank": 600}, "", "", "policy.lora.rank"),
]


@pytest.mark.parametrize(("lora", "only", "policy", "message"), CONTRADICTIONS)
def test_contradictions_name_their_line(tmp_path, lora, only, policy, message):
    table = "".join(f"{k} = {json.dumps(v)}\n" for k, v in lora.items())
    text = f'[data]\nfiles = ["a.jsonl"]\n[policy]\npath = "p"\n{policy}[policy.lora]\n{table}'
    file = tmp_path / "a.toml"
    file.write_text(text + "[eval]\nevery = 0\n[reward.reader]\npath = 'r'\n")
    with pytest.raises(ConfigError, match=message) as error:
        config, origins = load_with_origins(Config, [file])
        check(config, origins)
    assert "a.toml:" in str(error.value)
    if only != "train":
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            config, origins = load_with_origins(SftConfig, [file])
            check_sft(config, origins)
