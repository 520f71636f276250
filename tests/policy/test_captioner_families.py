"""Families beside Qwen's: what they compute is what transformers computes, one prompt for all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from caprl_native.certificate.cases import Case, cases
from caprl_native.certificate.reference import forward, processed, scored
from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
from caprl_native.policy.fsdp import freeze, full_tensor, load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.model import load_hf
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.policy.side_by_side import lay_out
from caprl_native.testing.samples import MEDIA, group, prompt, relative, responses
from caprl_native.testing.tiny_families import WRITERS

FAMILIES = ["internvl", "llava_onevision", "qwen3_5"]
PARTS = {"vision", "projector", "language"}
CASES = {case.name: case for case in cases([], MEDIA, mixes=True)}
# A tower may have what its features do not need: the norm behind the block that is read.
UNREAD = ("vision_tower.post_layernorm.",)
DECAYS = ("linear_attn.A_log", "linear_attn.dt_bias", "linear_attn.in_proj_a.weight")


@pytest.fixture(scope="module", params=FAMILIES)
def path(request, tmp_path_factory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def policy(path, dims):
    return load_policy(PolicyConfig(path=str(path), dtype="float32", logprob_chunk=16), dims)


@pytest.fixture(scope="module")
def hf(path):
    return load_hf(path).train()


def separate(policy, hf, path, case: Case, tokens: list[int]) -> torch.Tensor:
    """Log-probs of a response by transformers' own processor and model."""
    builder = PromptBuilder(str(path), MEDIA)
    text = builder.for_engine(case.sample, list(case.decoded))["prompt"]
    processor = policy.family.load_processor(str(path))
    inputs = processed(policy.family, processor, text, case.decoded, MEDIA)
    return scored(forward(hf, inputs, tokens), tokens)


def built(path, case: Case):
    return PromptBuilder(str(path), MEDIA)(case.sample, list(case.decoded))


def gradients(module) -> dict[str, torch.Tensor]:
    found = {
        name: torch.zeros(p.shape) if p.grad is None else full_tensor(p.grad).clone()
        for name, p in module.named_parameters()
    }
    module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("kind", CASES)
def test_log_probs_and_gradients_are_those_of_separate_sequences(policy, hf, path, kind):
    tokens = responses(policy.config, policy.banned, n=3, seed=1)
    given = built(path, CASES[kind])
    batch = collate([PackedRow(given, tokens, [0, 1, 2])], policy.positions)
    ours = policy(batch, ban=False).logprobs
    theirs = torch.cat([separate(policy, hf, path, CASES[kind], t) for t in tokens])
    assert (ours - theirs).abs().max() < 1e-5
    scale = torch.linspace(-1.0, 1.0, len(theirs))
    (ours * scale).sum().backward()
    (theirs * scale).sum().backward()
    of_policy, of_hf = gradients(policy.hf), gradients(hf)
    # The kernel sums decays in float32 from where a chunk begins, which is elsewhere in a fork.
    decays = {n for n in of_hf if n.endswith(DECAYS)}
    assert relative(of_policy | {n: of_hf[n] for n in decays}, of_hf) < 1e-5
    assert relative(of_policy, of_hf) < 5e-5


def test_kinds_may_share_a_micro_batch(policy, hf, path):
    rows, theirs = [], []
    for i, case in enumerate(CASES.values()):
        tokens = responses(policy.config, policy.banned, 2, seed=i)
        rows.append(PackedRow(built(path, case), tokens, [2 * i, 2 * i + 1]))
        theirs += [separate(policy, hf, path, case, t).detach() for t in tokens]
    with torch.no_grad():
        ours = policy(collate(rows, policy.positions), ban=False).logprobs
    assert (ours - torch.cat(theirs)).abs().max() < 1e-5


def test_whole_sequences_may_stand_side_by_side(policy, hf, path):
    """As in supervised training, where nothing is a prompt of several."""
    rows, theirs = [], []
    for i, case in enumerate(CASES.values()):
        (tokens,) = responses(policy.config, policy.banned, 1, seed=i)
        rows.append(PackedRow(built(path, case), [tokens], [i]))
        theirs.append(separate(policy, hf, path, case, tokens))
    ours = policy(lay_out(rows, policy.positions), ban=False).logprobs
    wanted = torch.cat(theirs)
    assert (ours - wanted).abs().max() < 1e-5
    scale = torch.linspace(-1.0, 1.0, len(wanted))
    (ours * scale).sum().backward()
    (wanted * scale).sum().backward()
    assert relative(gradients(policy.hf), gradients(hf)) < 5e-5


def test_a_frozen_tower_that_is_remembered_changes_nothing(policy, path):
    given = built(path, CASES["mixed"])
    batch = collate([PackedRow(given, [[9, 8]], [0])], policy.positions)
    freeze(policy, ["vision"])
    with torch.no_grad():
        plain = policy(batch).logprobs
        policy.cache_vision([given], 1)
        assert policy(batch).logprobs.equal(plain)
    policy.clear_vision_cache()
    freeze(policy, [])


@pytest.mark.parametrize("frozen", [[], ["vision"], ["vision", "projector"], ["language"]])
def test_a_step_moves_what_is_not_frozen_and_nothing_else(path, dims, frozen):
    config = PolicyConfig(
        path=str(path), dtype="float32", lr=1e-2, freeze=frozen, micro_batch_tokens=400
    )
    policy = load_policy(config, dims)
    before = {n: full_tensor(p.detach()).clone() for n, p in policy.hf.named_parameters()}
    optimizer = build_optimizer(policy, config)
    learner = Learner(policy, None, optimizer, config, AlgorithmConfig(), 1.0, 12, 10, dims)
    prompts = [prompt(path, kind) for kind in ("image", "video", "text")]
    metrics = learner.update(
        [group(p, responses(policy.config, policy.banned, 3, i), i) for i, p in enumerate(prompts)],
        0,
    )
    assert all(math.isfinite(value) for value in metrics.values())
    for name, parameter in policy.hf.named_parameters():
        moved = not full_tensor(parameter.detach()).equal(before[name])
        unread = any(part in name for part in UNREAD)
        assert moved == (policy.family.part_of(name) not in frozen and not unread), name


def test_parts_and_marks(policy):
    assert {policy.family.part_of(n) for n, _ in policy.hf.named_parameters()} == PARTS
    pads = policy.family.media_token_ids(policy.config)
    size = policy.config.get_text_config().vocab_size
    assert len(set(pads)) == 2 and max(policy.banned) < size
    late = {pad for pad in pads if pad >= size}  # which no head could sample
    assert set(pads) - late <= set(policy.banned)
    assert bool(late) == (policy.family.model_type == "internvl")
