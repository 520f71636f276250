"""The tower's attention on CUDA is that of its segments one by one, and never waits for the GPU.

No GPU here: a reference stands in for `varlen_attn`, and reads of values are counted on the CPU.
"""

import itertools
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from caprl_native.policy import vision_attention
from caprl_native.policy.families import FAMILIES
from caprl_native.policy.model import load_hf
from caprl_native.policy.model_check import ModelError

GRIDS = [[1, 4, 6], [3, 4, 4], [1, 12, 8]]


@pytest.fixture(params=["qwen3_vl", "qwen2_5_vl"])
def model(request, tiny_policy: Path, tiny_policy_2_5: Path) -> tuple:
    """Family and model."""
    path = {"qwen3_vl": tiny_policy, "qwen2_5_vl": tiny_policy_2_5}[request.param]
    return FAMILIES[request.param].value, load_hf(path)


def by_segments(q, k, v, bounds, _, longest, __):
    """What the kernel computes, `[N, H, D]`."""
    cuts = list(itertools.pairwise(bounds.tolist()))
    assert longest == max(end - start for start, end in cuts)
    parts = [[t[start:end].transpose(0, 1)[None] for t in (q, k, v)] for start, end in cuts]
    return torch.cat([scaled_dot_product_attention(*p)[0].transpose(0, 1) for p in parts])


def media(hf) -> dict[str, torch.Tensor]:
    grid = torch.tensor(GRIDS)
    width = hf.model.visual.patch_embed.proj.weight[0].numel()
    torch.manual_seed(0)
    patches = torch.randint(0, 256, (int(grid.prod(1).sum()), width), dtype=torch.uint8)
    norm = torch.full((len(GRIDS), 2, 3), 127.5)  # mean and deviation of each channel
    return {"grid": grid, "patches": patches, "norm": norm}


def test_outputs_and_gradients_are_those_of_the_segments(model, monkeypatch):
    monkeypatch.setattr(vision_attention, "varlen_attn", by_segments)
    family, hf = model

    def run() -> list[torch.Tensor]:
        out = family.media_features(hf, media(hf))
        weights = list(hf.model.visual.parameters())
        loss = sum(t.square().sum() for t in (out.embeds, *out.deepstack))
        return [out.embeds, *out.deepstack, *torch.autograd.grad(loss, weights)]

    theirs = run()
    family.attend_in_segments(hf)
    for a, b in zip(run(), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_no_block_reads_a_value(model, monkeypatch):
    """On CUDA Python waits for the GPU each time that it reads one."""
    monkeypatch.setattr(vision_attention, "varlen_attn", lambda q, *_: q)
    family, hf = model
    read: list[str] = []

    def run() -> int:
        read.clear()
        family.media_features(hf, media(hf))
        return len(read)

    for block in hf.model.visual.blocks:
        monkeypatch.setattr(block, "forward", counted(block.forward, read))
    assert run() > 0
    family.attend_in_segments(hf)
    assert run() == 0


def counted(forward, read: list[str]):
    """The same, which notes all that it reads off tensors."""

    def call(*args, **kwargs):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("tolist", "item", "__int__", "__bool__", "cpu"):
                real = getattr(torch.Tensor, name)
                patch.setattr(
                    torch.Tensor, name, lambda t, n=name, r=real: (read.append(n), r(t))[1]
                )
            return forward(*args, **kwargs)

    return call


def test_another_attention_is_refused():
    q = torch.ones(1, 2, 4, 16)
    for changes in ({"scaling": 1.0}, {"dropout": 0.1}):
        options = {"cu_seq_lens_q": torch.tensor([0, 4]), "max_length_q": 4, "scaling": 0.25}
        with pytest.raises(ModelError, match="of its own"):
            vision_attention.segment_attention(None, q, q, q, None, **options | changes)


def test_the_real_operator_takes_the_call():
    """Shapes and argument order, by its fake kernel."""
    with torch._subclasses.FakeTensorMode():
        q = torch.empty(1, 2, 40, 16, dtype=torch.bfloat16)
        bounds = torch.empty(3, dtype=torch.int32)
        out, _ = vision_attention.segment_attention(
            None, q, q, q, None, cu_seq_lens_q=bounds, max_length_q=30, scaling=0.25
        )
    assert out.shape == (1, 40, 2, 16)
