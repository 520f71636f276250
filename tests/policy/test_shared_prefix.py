"""One row `[prompt | r1 | ... | rn]` gives what n separate Hugging Face forward passes give."""

import dataclasses
import math

import pytest
import torch
from torch.distributed.tensor import DTensor

from caprl_native.config.schema import PolicyConfig
from caprl_native.policy.families.qwen import normalised
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.model import load_hf
from caprl_native.policy.packing import PackedRow, collate, pack
from caprl_native.policy.prompt import text_prompt
from caprl_native.testing.samples import prompt, relative, responses

TEMPERATURE = 0.8


@pytest.fixture(scope="module", params=["tiny_policy", "tiny_policy_2_5", "tiny_policy_moe"])
def model(request, dims):
    """(sharded policy, the same model as transformers loads it, its directory) of each family."""
    path = request.getfixturevalue(request.param)
    policy = load_policy(PolicyConfig(path=str(path), dtype="float32", logprob_chunk=16), dims)
    return policy, load_hf(path).train(), path


def reference(hf, policy, prompt, tokens, padding: int):
    """Log-probs of one response by a plain forward pass, `padding` tokens to its right."""
    n = len(tokens)
    tail = torch.tensor([*tokens, *[0] * padding])
    types = torch.zeros_like(tail)
    inputs = {
        "input_ids": torch.cat([prompt.ids, tail])[None],
        "mm_token_type_ids": torch.cat([prompt.token_types, types])[None],
        "attention_mask": torch.ones(1, len(prompt) + n + padding, dtype=torch.long),
    }
    inputs["attention_mask"][0, len(prompt) + n :] = 0
    if prompt.media is not None:
        inputs |= apart(prompt)
    if prompt.media is not None and "seconds" in prompt.media:
        # transformers 5.19 places the text after such a video where the video still is.
        inputs["second_per_grid_ts"] = prompt.media["seconds"]
        own = policy.positions(prompt)
        after = int(own.max()) + 1 + torch.arange(len(tail)).expand(3, -1)
        inputs["position_ids"] = torch.cat([own, after], dim=1)[:, None]
    logits = hf(**inputs).logits[0, len(prompt) - 1 : len(prompt) - 1 + n] / TEMPERATURE
    logits = logits.index_fill(-1, torch.tensor(policy.banned), -math.inf)
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


def apart(prompt):
    """A prompt's media as transformers has them: images and videos each for themselves."""
    grid, types = prompt.media["grid"], prompt.token_types[prompt.token_types != 0]
    first = (grid.prod(1) // 4).cumsum(0) - grid.prod(1) // 4  # of each medium's features
    patches = normalised(prompt.media).split(grid.prod(1).tolist())
    found = {}
    for kind, pixels, name in ((1, "pixel_values", "image"), (2, "pixel_values_videos", "video")):
        chosen = (types[first] == kind).nonzero()[:, 0].tolist()
        if chosen:
            found[pixels] = torch.cat([patches[i] for i in chosen])
            found[f"{name}_grid_thw"] = grid[chosen]
    return found


def gradients(module) -> dict[str, torch.Tensor]:
    found = {
        name: torch.zeros(p.shape) if p.grad is None else full_tensor(p.grad).clone()
        for name, p in module.named_parameters()
    }
    module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("kind", ["image", "images", "video", "mixed", "text"])
def test_log_probs_and_gradients_are_those_of_separate_sequences(model, kind):
    policy, hf, path = model
    given = prompt(path, kind)
    tokens = responses(policy.config, policy.banned, n=4, seed=1)
    batch = collate([PackedRow(given, tokens, [0, 1, 2, 3])], policy.positions)
    logprobs, entropy, _ = policy(batch, TEMPERATURE)
    separate = [reference(hf, policy, given, t, padding=5 * (i % 2)) for i, t in enumerate(tokens)]
    theirs = torch.cat(separate)
    assert (logprobs - theirs).abs().max() < 1e-5
    assert (entropy > 0).all()
    scale = torch.linspace(-1.0, 1.0, len(theirs))
    (logprobs * scale).sum().backward()
    (theirs * scale).sum().backward()
    assert relative(gradients(policy.hf), gradients(hf)) < 1e-5


def test_kinds_may_share_a_micro_batch(model):
    policy, hf, path = model
    kinds = ["image", "video", "mixed", "text", "images"]
    rows = []
    for i, kind in enumerate(kinds):
        tokens = responses(policy.config, policy.banned, 2, seed=i)
        rows.append(PackedRow(prompt(path, kind, seed=i), tokens, [2 * i, 2 * i + 1]))
    (pieces,) = pack(rows, 10_000)
    batch = collate(pieces, policy.positions)
    with torch.no_grad():
        table = batch.table(policy(batch, TEMPERATURE)[0])
        for row in rows:
            for tokens, i in zip(row.responses, row.index, strict=True):
                ours = table[batch.index.index(i), : len(tokens)]
                theirs = reference(hf, policy, row.prompt, tokens, padding=0)
                assert (ours - theirs).abs().max() < 1e-5


def test_probabilities_of_all_tokens_add_up_to_one(model):
    policy, _, path = model
    vocabulary = policy.config.text_config.vocab_size
    one_each = [[token] for token in range(vocabulary)]
    batch = collate(
        [PackedRow(prompt(path, "image"), one_each, list(range(vocabulary)))], policy.positions
    )
    with torch.no_grad():
        mass = policy(batch)[0].exp()
    assert mass[policy.banned].tolist() == [0.0] * len(policy.banned)
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_scoring_leaves_the_parameters_sharded(model):
    """Else a checkpoint or a weight sync after it would find gathered ones in the compute dtype."""
    policy, _, path = model
    batch = collate([PackedRow(prompt(path, "image"), [[9]], [0])], policy.positions)
    with torch.no_grad():
        policy(batch)
    assert all(isinstance(p, DTensor) for p in policy.parameters())


def test_pad_tokens_written_by_a_response_are_no_media(model):
    """Only the prompt's pads stand for features: a response cannot shift them."""
    policy, _, path = model
    given = prompt(path, "image")
    pad = policy.config.image_token_id
    batch = collate([PackedRow(given, [[9, pad, 9]], [0])], policy.positions)
    with torch.no_grad():
        logprobs = policy(batch).logprobs
    assert logprobs[1] == -math.inf and torch.isfinite(logprobs[[0, 2]]).all()


def test_more_or_fewer_pads_than_features_is_an_error(model):
    policy, _, path = model
    given = prompt(path, "image")
    ids = given.ids.clone()
    ids[ids == policy.config.image_token_id] = torch.cat(
        [torch.tensor([9]), ids[ids == policy.config.image_token_id][1:]]
    )
    broken = dataclasses.replace(given, ids=ids)
    batch = collate([PackedRow(broken, [[9]], [0])], policy.positions)
    with pytest.raises(ValueError, match=r"media tokens in the prompts, but \d+ features"):
        policy(batch)


def test_a_text_without_media_leaves_the_vision_tower_a_gradient_of_zero(model):
    policy, _, _ = model
    batch = collate([PackedRow(text_prompt([9, 10, 11]), [[12, 13]], [0])], policy.positions)
    policy(batch)[0].sum().backward()
    for name, gradient in gradients(policy.hf).items():
        assert (gradient.abs().sum() == 0) == (policy.family.part_of(name) != "language"), name
