"""Shared-prefix attention is softmax attention under the mask that its block mask spells out."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from caprl_native.policy.attention import block_mask, prepare, shared_prefix_attention
from caprl_native.policy.packing import MicroBatch, PackedRow, collate
from caprl_native.policy.prompt import text_prompt
from caprl_native.policy.side_by_side import lay_out

ROWS = {
    "one row": [(7, [3, 1, 4])],
    "uneven rows": [(9, [2, 5]), (1, [6, 1, 1]), (4, [1])],
    "equal rows": [(3, [2, 2]), (3, [2, 2])],
    "side by side": [(4, [3]), (1, [1]), (2, [5])],
}


def batch_of(rows: list[tuple[int, list[int]]], side_by_side: bool = False) -> MicroBatch:
    made = [
        PackedRow(text_prompt([1] * prompt), [[1] * n for n in answers], list(range(len(answers))))
        for prompt, answers in rows
    ]
    lay = lay_out if side_by_side else collate
    return lay(made, lambda prompt: torch.arange(len(prompt)).expand(3, -1))


def dense(batch: MicroBatch) -> torch.Tensor:
    """`[B, 1, L, L]` bool: the block mask entry by entry."""
    rows, length = batch.segments.shape
    return create_mask(block_mask(batch).mask_mod, rows, None, length, length, device="cpu")


def test_a_response_sees_the_prompt_and_itself_only():
    mask = dense(batch_of([(2, [2, 2]), (1, [1])]))[:, 0].int().tolist()
    assert mask[0] == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert [row[:2] for row in mask[1]] == [[1, 0], *[[1, 1]] + [[1, 0]] * 4]
    assert [row[2:] for row in mask[1]][:2] == [[0] * 4] * 2  # nothing real sees padding
    assert all(any(row) for row in mask[1])  # no empty row of the softmax


def test_sequences_side_by_side_see_themselves_alone():
    batch = batch_of(ROWS["side by side"], side_by_side=True)
    assert batch.segments.tolist() == [[1] * 7 + [2] * 2 + [3] * 7]
    own = batch.segments[0][:, None] == batch.segments[0][None]
    assert torch.equal(dense(batch)[0, 0], own.tril())
    places = [*range(7), *range(2), *range(7)]
    assert batch.positions.tolist() == [[places]] * 3
    assert batch.sources.tolist() == [3, 4, 5, 7, *range(10, 15)]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", ROWS)
def test_outputs_and_gradients_are_those_of_masked_attention(name, kv_heads):
    torch.manual_seed(0)
    batch = batch_of(ROWS[name], name == "side by side")
    (rows, length), heads, size = batch.segments.shape, 4, 8
    shapes = [(rows, h, length, size) for h in (heads, kv_heads, kv_heads)]
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    ours, _ = shared_prefix_attention(None, q, k, v, None, prefixes=prepare(batch), scaling=0.3)
    repeated = [t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v)]
    scores = (q @ repeated[0].transpose(2, 3) * 0.3).masked_fill(~dense(batch), -torch.inf)
    theirs = (scores.softmax(-1) @ repeated[1]).transpose(1, 2)
    real = batch.segments >= 0
    torch.testing.assert_close(ours[real], theirs[real])
    assert torch.isfinite(ours).all()
    scale = torch.randn_like(ours[real])
    for a, b in zip(
        torch.autograd.grad((ours[real] * scale).sum(), (q, k, v)),
        torch.autograd.grad((theirs[real] * scale).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_long_rows_are_attended_in_several_blocks(dtype, rtol):
    """Longer than the kernels' blocks, two query heads to a key head, strides as transformers'."""
    torch.manual_seed(0)
    batch = batch_of([(600, [200, 3, 90]), (50, [300])])
    rows, length = batch.segments.shape
    exact = [torch.randn(rows, length, heads, 16, dtype=torch.float64) for heads in (4, 2, 2)]
    real, scale = batch.segments >= 0, torch.randn(rows, length, 4, 16, dtype=torch.float64)

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [t.to(dtype).requires_grad_() for t in exact]
        given = (t.transpose(1, 2) for t in inputs)
        out, _ = shared_prefix_attention(None, *given, None, prefixes=prepare(batch), scaling=0.3)
        grads = torch.autograd.grad((out[real] * scale[real].to(dtype)).sum(), inputs)
        return [t.double() for t in (out[real], *grads)]

    inputs = [t.requires_grad_() for t in exact]
    q, k, v = (t.transpose(1, 2).repeat_interleave(4 // t.shape[2], dim=1) for t in inputs)
    scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(~dense(batch), -torch.inf)
    theirs = (scores.softmax(-1) @ v).transpose(1, 2)[real]
    wanted = [theirs, *torch.autograd.grad((theirs * scale[real]).sum(), inputs)]
    for a, b in zip(run(dtype), wanted, strict=True):
        assert (a - b).norm() < rtol * b.norm()


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("name", ROWS)
def test_flex_attention_with_the_block_mask_gives_the_same(name, kv_heads):
    """What CUDA computes, here with the uncompiled operator."""
    torch.manual_seed(0)
    batch = batch_of(ROWS[name], name == "side by side")
    rows, length = batch.segments.shape
    q, k, v = (torch.randn(rows, heads, length, 8) for heads in (4, kv_heads, kv_heads))
    ours, _ = shared_prefix_attention(None, q, k, v, None, prefixes=prepare(batch), scaling=0.3)
    flex, _ = shared_prefix_attention(None, q, k, v, None, prefixes=block_mask(batch), scaling=0.3)
    real = batch.segments >= 0
    torch.testing.assert_close(ours[real], flex[real], rtol=1e-4, atol=1e-5)
