"""A mixture of experts: what it computes, how it is stored, and what a plan says of one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.utils.flop_counter import FlopCounterMode

from caprl_native.config.cli import load
from caprl_native.config.schema import Config, PolicyConfig
from caprl_native.dry_run import Device, needs_of, plan
from caprl_native.memory_plan import GIB
from caprl_native.policy.balance import Costs
from caprl_native.policy.families import family_of
from caprl_native.policy.families.qwen_moe import route
from caprl_native.policy.flops import Flops
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.model_size import read_model_size
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.rollout.weight_sync import stream
from caprl_native.testing.samples import prompt, relative, responses
from tests.policy.fake_memory import config_of, model_of

EXPERTS = 4 * 3 * 96 * 128  # weights of a layer's experts in the tiny model


def scored(path: Path, dims, **changes):
    """Log-probs of some responses, and all gradients."""
    policy = load_policy(PolicyConfig(path=str(path), dtype="float32").replace(**changes), dims)
    tokens = responses(policy.config, policy.banned, n=3, seed=1)
    batch = collate([PackedRow(prompt(path, "image"), tokens, [0, 1, 2])], policy.positions)
    logprobs = policy(batch).logprobs
    (logprobs * torch.linspace(-1.0, 1.0, len(logprobs))).sum().backward()
    gradients = {n: full_tensor(p.grad).clone() for n, p in policy.hf.named_parameters()}
    return policy, logprobs.detach(), gradients


def test_grouped_and_single_products_of_experts_agree(tiny_policy_moe, dims):
    grouped, logprobs, gradients = scored(tiny_policy_moe, dims)
    single, theirs, other = scored(tiny_policy_moe, dims, experts="eager")
    kinds = [p.config.get_text_config()._experts_implementation for p in (grouped, single)]
    assert kinds == ["grouped_mm", "eager"]
    assert (logprobs - theirs).abs().max() < 1e-5
    assert relative(gradients, other) < 1e-5
    routers = [g for n, g in gradients.items() if n.endswith("mlp.gate.weight")]
    assert len(routers) == 4 and all(g.abs().sum() > 0 for g in routers)


@pytest.mark.parametrize("kind", ["grouped_mm", "eager"])
def test_experts_that_no_token_reaches_have_a_gradient_of_zero(tiny_policy_moe, kind):
    hf = load_hf(tiny_policy_moe)
    hf.set_experts_implementation(kind)
    experts = hf.model.language_model.layers[0].mlp.experts
    chosen, weights = torch.tensor([[0, 3]] * 9), torch.full((9, 2), 0.5)
    experts(torch.ones(9, 128), chosen, weights).sum().backward()
    for parameter in experts.parameters():
        moved = parameter.grad.flatten(1).abs().sum(1) > 0
        assert moved.tolist() == [True, False, False, True]


def test_routers_choose_in_float32_whatever_the_precision(tiny_policy_moe, dims):
    """Of hidden states and weights that are rounded, but not the products."""
    policy = load_policy(PolicyConfig(path=str(tiny_policy_moe)), dims)
    router = policy.family.routers(policy.hf)[0]
    with torch.no_grad():
        policy(collate([PackedRow(prompt(tiny_policy_moe, "text"), [[9]], [0])], policy.positions))
    weight = full_tensor(router.weight.detach()).bfloat16()
    hidden = torch.randn(50, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    held = type(router).__new__(type(router))
    torch.nn.Module.__init__(held)
    held.hidden_dim, held.top_k, held.weight = 128, 2, torch.nn.Parameter(weight)
    logits, weights, chosen = route(held, hidden)
    exact = (hidden.double() @ weight.double().T).softmax(-1)
    assert logits.dtype == weights.dtype == torch.float32
    assert torch.equal(chosen.sort().values, exact.topk(2).indices.sort().values)
    assert torch.allclose(weights.sum(-1), torch.ones(50))
    plain, _, _ = type(held).forward(held, hidden)
    assert plain.dtype == torch.bfloat16  # as transformers has it


def test_experts_are_units_of_their_own(tiny_policy_moe, dims):
    policy = load_policy(PolicyConfig(path=str(tiny_policy_moe), dtype="float32"), dims)
    experts = policy.family.experts(policy.hf)
    assert len(experts) == 4 and all(isinstance(unit, FSDPModule) for unit in experts)
    assert sum(p.numel() for p in experts[0].parameters()) == EXPERTS


def test_what_is_streamed_is_what_the_directory_holds(tiny_policy_moe, dims):
    """Name by name and bit by bit: vLLM's loader takes either."""
    policy = load_policy(PolicyConfig(path=str(tiny_policy_moe)), dims)
    source = load_file(tiny_policy_moe / "model.safetensors")
    sent = dict(stream(policy, torch.float32, as_stored=True))
    assert sent.keys() == source.keys()
    assert all(torch.equal(tensor, source[name]) for name, tensor in sent.items())
    held = dict(stream(policy, torch.float32))
    assert {n for n in sent if sent[n].shape != held[n].shape} == {
        n for n in sent if ".mlp.experts." in n
    }


def copied(source: Path, target: Path, change) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    change(target)
    return target


def as_transformers_writes_it(folder: Path) -> None:
    load_hf(folder).save_pretrained(folder)


def as_transformers_would_misread_it(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    described["text_config"]["moe_intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(described))


def not_normalised(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    described["text_config"]["norm_topk_prob"] = False
    (folder / "config.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (as_transformers_writes_it, r"gate_up_proj is \[4, 192, 128\], as transformers'"),
        (as_transformers_would_misread_it, "moe_intermediate_size = 64 .*could not be told"),
        (not_normalised, "norm_topk_prob is not true"),
    ],
)
def test_a_mixture_that_would_be_read_otherwise_is_refused(
    tiny_policy_moe, tmp_path, change, problem
):
    path = copied(tiny_policy_moe, tmp_path / "model", change)
    with pytest.raises(ModelError, match=problem):
        load_hf(path, empty=True)


def test_only_experts_that_a_token_meets_are_counted(tiny_policy_moe):
    policy = Policy(load_hf(tiny_policy_moe), family_of(tiny_policy_moe))
    model = read_model_size(tiny_policy_moe)
    assert model.total == sum(p.numel() for p in policy.parameters())
    assert model.active == model.total - 4 * EXPERTS // 2
    layers = sum(p.numel() for p in policy.family.language_layers(policy.hf).parameters())
    assert Costs.of(policy).token == 2.0 * (layers - 4 * EXPERTS // 2)
    policy.hf.set_experts_implementation("eager")  # its products are those that torch counts
    embeds, layer = torch.randn(1, 40, 128), policy.hf.model.language_model.layers[0]
    with FlopCounterMode(display=False) as mode, torch.no_grad():
        layer.mlp(embeds)
    linear = sum(m.weight.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear))
    assert mode.get_total_flops() == 40 * (Flops.of(policy).token / 4 - 2 * linear)


# --- 30B-A3B ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A directory of 30B-A3B's shapes. Its weights' file has a header and a hole of 62 GB."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.json").write_text(json.dumps(config_of("30b-a3b").to_dict()))
    header, end = {}, 0
    family = family_of(folder)
    for name, held in model_of("30b-a3b").named_parameters():
        shape = family.as_stored(name, held).shape
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def test_the_published_size_is_read(published):
    model = read_model_size(published)
    assert model.total == pytest.approx(31.07e9, rel=0.001)  # 30.53 and the tower's 0.54
    assert model.active == pytest.approx(3.9e9, rel=0.01)  # 3.35, and the tower
    root, block = model.units()
    assert block == pytest.approx(0.625e9, rel=0.01)
    assert model.kv_per_token == 2 * 48 * 4 * 128


def test_a_plan_for_32_gpus(published, tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n" * 640)
    config = Config(policy={"path": str(published)})
    config.data.files, config.data.batch_size = [str(tmp_path / "train.jsonl")], 64
    config.reward.terms = {"length": {"weight": 1.0}}
    config.rollout.tensor_parallel_size, config.rollout.gpu_memory_utilization = 2, 0.6
    config.policy.replicas = 1
    text = plan(config, 32, device=Device.of(80.0))
    assert "32: weights sharded over 32" in text and "of them for each token" in text
    lines = {line[:24].strip(): line[24:].split() for line in text.splitlines() if line[24:]}
    masters = read_model_size(published).total * 4 / 32 / 2**30
    assert float(lines["master weights"][0]) == pytest.approx(masters, abs=0.001)
    assert float(lines["Adam"][0]) == pytest.approx(2 * masters, abs=0.001)
    print(text)
    assert "fits" in text and "short" not in text.split("on GPUs of")[0]


@pytest.mark.parametrize(
    ("replicas", "budget", "rollout", "training"),
    [(0, 32_768, 72.3, 69.5), (1, 32_768, 61.5, 47.5), (1, 57_344, 61.5, 69.9)],
)
def test_the_plan_of_taskmems_run(published, replicas, budget, rollout, training):
    """As docs/memory.md has it, for 32 GPUs of 80 GB."""
    config = load(Config, ["memory.toml"])
    config.policy = config.policy.replace(
        path=str(published), replicas=replicas, micro_batch_tokens=budget
    )
    peaks = needs_of(config, read_model_size(published), None, 32).peaks(79.1 * GIB)
    assert [round(peak / GIB, 1) for peak in peaks.totals] == [rollout, training]
