"""Bytes of activations in a policy's forward and backward pass, with tensors that hold nothing.

The models have the published shapes and no weights. Tensors are fake ones; on the CPU, since
autograd asks CUDA for a stream, though nothing below runs another operator there. What reads a
value is answered here: how many features there are, and where. FlexAttention, which torch traces
only when compiled, has a stand-in with the same outputs and saved tensors (queries, keys, values,
outputs, log-sum-exps); `varlen_attn` brings its own.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    vision_utils,
)

from caprl_native.config.schema import PolicyConfig
from caprl_native.policy import attention, fsdp
from caprl_native.policy.families import FAMILIES, Prompt
from caprl_native.policy.model import Policy
from caprl_native.policy.packing import MicroBatch, PackedRow, collate

# As published in the models' config.json.
SMALL_TOWER = dict(
    depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=[5, 11, 17]
)
LARGE_TOWER = SMALL_TOWER | dict(
    depth=27, hidden_size=1152, intermediate_size=4304, deepstack_visual_indexes=[8, 16, 24]
)
TOWER = {
    "2b": SMALL_TOWER,
    "4b": SMALL_TOWER,
    "8b": LARGE_TOWER,
    "30b-a3b": LARGE_TOWER,
}
TEXT = {
    "2b": dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28),
    "4b": dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36),
    "8b": dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36),
    "30b-a3b": dict(
        hidden_size=2048, intermediate_size=6144, num_hidden_layers=48, num_experts=128,
        num_experts_per_tok=8, moe_intermediate_size=768, norm_topk_prob=True,
    ),
}  # fmt: skip
HEADS = {"2b": 16, "4b": 32, "8b": 32, "30b-a3b": 32}
KV_HEADS = {"30b-a3b": 4}  # of the others 8


MODELS = {
    "qwen3_vl": Qwen3VLForConditionalGeneration,
    "qwen3_vl_moe": Qwen3VLMoeForConditionalGeneration,
}


class Bytes(NamedTuple):
    """The most at a time, and those that the forward pass leaves for the backward pass."""

    peak: int
    held: int


def config_of(name: str) -> Qwen3VLConfig | Qwen3VLMoeConfig:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    kind = Qwen3VLMoeConfig if "num_experts" in TEXT[name] else Qwen3VLConfig
    return kind(
        text_config=TEXT[name]
        | dict(
            vocab_size=151936,
            num_attention_heads=HEADS[name],
            num_key_value_heads=KV_HEADS.get(name, 8),
        )
        | dict(head_dim=128, rope_parameters=rope),
        vision_config=TOWER[name]
        | dict(
            num_heads=16, out_hidden_size=TEXT[name]["hidden_size"], num_position_embeddings=2304
        ),
        tie_word_embeddings=name in ("2b", "4b"),
    )


def micro_batch(
    config: Qwen3VLConfig, text: int, side: tuple[int, int], responses: list[int]
) -> MicroBatch:
    """One row: a picture of so many by so many features, text, and responses of these lengths."""
    ids = torch.tensor([config.image_token_id] * (side[0] * side[1]) + [1] * text)
    grid = torch.tensor([[1, 2 * side[0], 2 * side[1]]])
    pixels = torch.empty(int(grid.prod()), 3 * 2 * 16 * 16, dtype=torch.uint8)
    media = {"patches": pixels, "grid": grid, "norm": torch.ones(1, 2, 3)}
    prompt = Prompt(ids, (ids != 1).long(), media, int(grid.prod()))
    row = PackedRow(prompt, [[1] * n for n in responses], list(range(len(responses))))
    return collate([row], lambda p: torch.arange(len(p)).expand(3, -1))


def activation_peak(name: str, batch: MicroBatch, config: PolicyConfig) -> Bytes:
    """Most bytes at a time in one forward and backward pass, beside weights and their gradients."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    hf_config = config_of(name)
    assert batch.inputs is not None
    grid, longest = _precomputed(hf_config, batch.inputs["grid"]), int(batch.inputs["grid"].prod())
    with mode, _stand_ins():
        policy = _policy(name, config)
        visual = policy.hf.model.visual
        fakes = _fakes(grid)
        visual.forward = functools.partial(visual.forward, **fakes, max_seqlen=longest)
        moved = {k: v for k, v in vars(batch).items() if isinstance(v, Tensor)}
        batch = dataclasses.replace(batch, **_fakes(moved), inputs=_fakes(batch.inputs))
        features = int(fakes["position_ids"].shape[0]) // 4
        with Peak(policy, features) as peak:
            loss = policy(batch).logprobs.sum()
            held = peak.live
            loss.backward()
    return Bytes(peak.most, held)


def _fakes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {k: torch.empty_like(v) for k, v in tensors.items()}


def model_of(name: str) -> Any:
    """The model in bfloat16, without memory: on the meta device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            hf_config = config_of(name)
            return MODELS[hf_config.model_type](hf_config)
    finally:
        torch.set_default_dtype(before)


def _policy(name: str, config: PolicyConfig) -> Policy:
    hf = model_of(name)
    for module in hf.modules():
        for tensors, kind in ((module._parameters, nn.Parameter), (module._buffers, Tensor)):
            for key, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_like(tensor, device="cpu")
                    tensors[key] = nn.Parameter(fake) if kind is nn.Parameter else fake
    hf.tie_weights()
    policy = Policy(hf, FAMILIES[hf.config.model_type].value, chunk=config.logprob_chunk)
    policy.family.attend_in_segments(hf)
    fsdp.freeze(policy, config.freeze)
    if config.activation_checkpointing:
        fsdp.recompute(policy)
    return policy.train()


def _precomputed(config: Any, grid: Tensor) -> dict[str, Tensor]:
    """What the tower reads off a grid's values: transformers takes these in place of them."""
    vision = config.vision_config
    indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=48, align_corners=True, spatial_merge_size=2
    )
    return {
        "interp_indices": indices,
        "interp_weights": weights,
        "position_ids": vision_utils.get_vision_position_ids(grid, 2),
        "cu_seqlens": vision_utils.get_vision_attention_seqlens(grid, vision)[0],
    }


@contextmanager
def _stand_ins() -> Iterator[None]:
    before = attention.prepare, attention.flex_attention
    real = torch.zeros(1)
    mask = create_block_mask(lambda b, h, q, k: q >= k, 1, 1, 1, 1, device=real.device.type)
    attention.prepare = lambda batch: mask
    attention.flex_attention = _flex
    try:
        yield
    finally:
        attention.prepare, attention.flex_attention = before


def _flex(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    return _Flex.apply(query, key, value)


class _Flex(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        logz = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, logz)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, logz = ctx.saved_tensors
        delta = torch.empty_like(logz)
        grads = tuple(torch.empty_like(t) for t in (query, key, value))
        del delta
        return grads


MASKED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)


class Peak(TorchDispatchMode):
    """Bytes of the storages that are made under it, and the most that lived at a time.

    Gradients of weights (what has a weight's shape, in the backward pass or not) are not counted.
    """

    def __init__(self, policy: nn.Module, features: int) -> None:
        super().__init__()
        self.live = self.most = 0
        self.features = features
        self.known = weakref.WeakSet(p.untyped_storage() for p in policy.parameters())
        shapes = {tuple(p.shape) for p in policy.parameters() if p.ndim > 1}
        self.weights = shapes | {s[::-1] for s in shapes}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return self.features
        if func in MASKED:
            args = (args[0], self._counted(args[1]), *args[2:])
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return out

    def _counted(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Indices in place of a mask whose number of true entries only its values tell."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.dtype == torch.bool:
                found += [index.new_empty(self.features, dtype=torch.long)] * index.ndim
            else:
                found.append(index)
        return found

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.known:
            return
        self.known.add(storage)
        if tuple(tensor.shape) in self.weights:
            return
        size = storage.nbytes()
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size
