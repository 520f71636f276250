"""Attention kernels against dense float32 references: outputs and all gradients.

On CUDA: FlexAttention under the shared-prefix block mask, plain, checkpointed and within a compiled
function, and variable-length attention of the vision tower. On a CPU: attention_cpu, and of
FlexAttention the outputs (compiled where there is a C++ compiler). On both, whole micro-batches
through the policy against transformers, one sequence at a time.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from caprl_native.policy.attention import block_mask, prepare, shared_prefix_attention
from caprl_native.policy.packing import PAD, PROMPT, MicroBatch, PackedRow, collate
from caprl_native.policy.prompt import text_prompt
from smoke.findings import NOT_ON_CPU, Check, Finding, Options, at_most, run_part

Rows = list[tuple[int, list[int]]]  # of each row, prompt and responses in tokens
Attend = Callable[..., Tensor]

# Norm of the difference over the norm. float32 products may round their factors to TF32's 10 bits.
BOUND = {torch.float32: 2e-3, torch.bfloat16: 2e-2}
SMALL: Rows = [(67, [30, 1, 40])]
PADDED: Rows = [(300, [77, 5, 130]), (41, [200]), (128, [128])]
LONG: Rows = [(1500, [200, 333, 127, 64]), (900, [411, 90])]
VERY_LONG: Rows = [(6000, [300] * 8)]
SEGMENTS = [64, 256, 16, 1020, 4]  # patches of images, or of frames, in one pass of the tower


@dataclass(frozen=True)
class Case:
    """Shapes of one comparison."""

    name: str
    rows: Rows
    heads: int
    kv_heads: int
    size: int
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.name}, {self.heads}/{self.kv_heads} heads of {self.size}, {kind}"


def cases(cpu: bool) -> list[Case]:
    fp32 = torch.float32
    small = [Case("one row", SMALL, 4, 2, 64), Case("one row", SMALL, 4, 4, 128, fp32)]
    padded = [Case("padded rows", PADDED, 4, 1, 64), Case("padded rows", PADDED, 4, 2, 128, fp32)]
    if cpu:
        return small + padded
    return [
        *small,
        *padded,
        Case("padded rows", PADDED, 16, 8, 128),
        Case("long rows", LONG, 16, 8, 128),
        Case("long rows", LONG, 16, 8, 64, fp32),
        Case("long rows", LONG, 28, 4, 128),
    ]


def batch_of(rows: Rows) -> MicroBatch:
    made = [
        PackedRow(text_prompt([1] * prompt), [[1] * n for n in answers], list(range(len(answers))))
        for prompt, answers in rows
    ]
    return collate(made, lambda prompt: torch.arange(len(prompt)).expand(3, -1))


def tensors(case: Case, batch: MicroBatch) -> tuple[list[Tensor], Tensor]:
    """q `[B, H, L, D]`, k and v `[B, K, L, D]`, and an upstream gradient `[B, L, H, D]` that is
    zero at padding; strides as transformers makes them."""
    rows, length = batch.segments.shape
    device, dtype = batch.segments.device, case.dtype
    torch.manual_seed(0)

    def draw(heads: int) -> Tensor:
        return torch.randn(rows, length, heads, case.size, device=device, dtype=dtype)

    inputs = [draw(h).transpose(1, 2) for h in (case.heads, case.kv_heads, case.kv_heads)]
    return inputs, draw(case.heads) * (batch.segments != PAD)[..., None, None]


def dense(batch: MicroBatch, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The reference `[B, L, H, D]`, all scores at once."""
    segments = batch.segments
    length, groups = segments.shape[1], q.shape[1] // k.shape[1]
    own = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    mask = causal & (own | (segments == PROMPT)[:, None, :])
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(~mask[:, None], -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def ours(prefixes: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale = q.shape[3] ** -0.5
    return shared_prefix_attention(None, q, k, v, None, prefixes=prefixes, scaling=scale)[0]


def relative(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest |a - b| / |b| of the pairs; not a number if anything is not finite."""
    pairs = zip(found, wanted, strict=True)
    gaps = [(a.float() - b.float()).norm() / b.float().norm() for a, b in pairs]
    return torch.stack(gaps).max().item()


def with_gradients(attend: Attend, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """The outputs where the upstream gradient is not zero, and the inputs' gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    out = attend(*leaves)
    real = upstream.abs().sum((2, 3)) > 0
    return [out[real], *torch.autograd.grad(out, leaves, upstream.to(out.dtype))]


def compared(case: Case, how: Callable[[MicroBatch], Attend]) -> Finding:
    """One way to attend against the reference, on the same rounded inputs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = batch_of(case.rows).to(torch.device(device))
    inputs, upstream = tensors(case, batch)
    exact = [t.float() for t in inputs]
    wanted = with_gradients(partial(dense, batch), exact, upstream.float())
    found = with_gradients(how(batch), inputs, upstream)
    return at_most(relative(found, wanted), BOUND[case.dtype])


def trained(batch: MicroBatch) -> Attend:
    """As the trainer attends on this device."""
    return partial(ours, prepare(batch))


def recomputed(batch: MicroBatch) -> Attend:
    """Under activation checkpointing, whose recomputation runs in a thread of autograd's."""
    attend = trained(batch)
    return lambda *inputs: checkpoint(attend, *inputs, use_reentrant=False)


def within_compile(batch: MicroBatch) -> Attend:
    """As a part of a larger compiled function."""
    prefixes = prepare(batch)

    @torch.compile(dynamic=True)
    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ours(prefixes, q * 2.0, k * 0.5, v) + 0.0

    return layer


def outputs_on_cpu(case: Case, compiled: bool) -> Finding:
    """FlexAttention's outputs alone: it has no backward pass for a CPU."""
    batch = batch_of(case.rows)
    inputs, _ = tensors(case, batch)
    real, attend = batch.segments != PAD, partial(ours, block_mask(batch))
    if compiled:
        attend = torch.compile(attend)
    with torch.no_grad():
        out, wanted = attend(*inputs), dense(batch, *(t.float() for t in inputs))
    return at_most(relative([out[real]], [wanted[real]]), BOUND[case.dtype])


def no_scores(rows: Rows, heads: int) -> Finding:
    """Peak memory of a checkpointed pass over the memory of the scores that must not exist."""
    batch = batch_of(rows).to(torch.device("cuda"))
    length = batch.segments.shape[1]
    inputs, upstream = tensors(Case("", rows, heads, heads, 128), batch)
    attend = recomputed(batch)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with_gradients(attend, inputs, upstream)
    peak = torch.cuda.max_memory_allocated() - before
    return at_most(peak / (2 * heads * length**2), 0.5)


def varlen(size: int) -> Finding:
    """The tower's attention over all segments `[1, H, N, D]` against one call for each."""
    from caprl_native.policy.vision_attention import segment_attention

    torch.manual_seed(0)
    device, total, longest = torch.device("cuda"), sum(SEGMENTS), max(SEGMENTS)
    shape, dtype = (1, 16, total, size), torch.bfloat16
    inputs = [torch.randn(shape, device=device, dtype=dtype) for _ in range(3)]
    upstream = torch.randn(1, total, 16, size, device=device, dtype=dtype)
    ends = torch.tensor([0, *SEGMENTS], device=device).cumsum(0).int()

    def together(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bounds = {"cu_seq_lens_q": ends, "max_length_q": longest}
        return segment_attention(None, q, k, v, None, scaling=size**-0.5, **bounds)[0]

    found = with_gradients(together, inputs, upstream)
    wanted = with_gradients(by_segment, [t.float() for t in inputs], upstream.float())
    return at_most(relative(found, wanted), BOUND[dtype])


def by_segment(*inputs: Tensor) -> Tensor:
    """The reference of `varlen`."""
    parts = zip(*(t.split(SEGMENTS, dim=2) for t in inputs), strict=True)
    return torch.cat([scaled_dot_product_attention(*p) for p in parts], dim=2).transpose(1, 2)


def whole(options: Options) -> Iterator[Check]:
    """A packed micro-batch with images and a video, through a model of few layers."""
    from smoke.whole_model import WholeModel

    for dtype in ("float32", "bfloat16"):
        model = WholeModel(options, dtype)
        yield f"policy against transformers: log-probs, {dtype}", model.log_probs
        yield f"policy against transformers: gradients, {dtype}", model.gradients
    if options.cpu:
        yield "the tower attends by variable lengths", lambda: NOT_ON_CPU
    else:
        yield "the tower attends by variable lengths", model.uses_varlen


def on_cpu() -> Iterator[Check]:
    """FlexAttention as far as a CPU has it."""
    for case in cases(cpu=True):
        yield f"FlexAttention, outputs: {case}", partial(outputs_on_cpu, case, False)
    compiled = partial(outputs_on_cpu, Case("padded rows", PADDED, 4, 2, 64, torch.float32), True)
    missing = Finding("no g++ here")
    yield "FlexAttention, compiled, outputs", compiled if shutil.which("g++") else lambda: missing
    yield "variable-length attention", lambda: NOT_ON_CPU


def on_cuda() -> Iterator[Check]:
    """What only a GPU computes; compiling takes seconds for each case."""
    for case in cases(cpu=False)[-3:]:
        yield f"checkpointed: {case}", partial(compared, case, recomputed)
        yield f"within a compiled function: {case}", partial(compared, case, within_compile)
    yield "peak memory / scores, 8,400 positions", partial(no_scores, VERY_LONG, 16)
    for size in (64, 128):
        yield f"variable-length attention, heads of {size}", partial(varlen, size)


def checks(options: Options) -> Iterator[Check]:
    """All comparisons of this device."""
    for case in cases(options.cpu):
        yield f"trainer's attention: {case}", partial(compared, case, trained)
    yield from on_cpu() if options.cpu else on_cuda()
    yield from whole(options)


if __name__ == "__main__":
    run_part("kernels", checks)
