"""FSDP2: a model in shards, loaded from a directory, frozen where asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.launcher import replicas
from caprl_native.distributed.world import ParallelDims, from_rank_0, mesh_for
from caprl_native.policy.adapting import add_adapter, first_values
from caprl_native.policy.compiling import compile_blocks
from caprl_native.policy.families import family_of
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.model_check import ModelError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_policy(
    config: PolicyConfig, dims: ParallelDims, *, path: str = "", seed: int = 0
) -> Policy:
    """The model of `config.path` (or `path`), frozen where asked, sharded over the ranks.

    Rank 0 reads the files; the others get their shards from it, so that one full copy exists.
    `seed`: of the run, for what an adapter begins with.
    """
    path = path or config.path
    full = load_hf(path) if dims.is_main else None
    family = family_of(path, or_text=True)
    policy = Policy(load_hf(path, empty=True), family, chunk=config.logprob_chunk)
    if family.experts(policy.hf):
        policy.hf.set_experts_implementation(config.experts)
    add_adapter(policy, config.lora) if config.lora.is_on else freeze(policy, config.freeze)
    if dims.device.type == "cuda" and config.dtype == "bfloat16":  # as its kernel wants it
        family.attend_in_segments(policy.hf)
    if dims.device.type == "cuda" and config.compile:
        compile_blocks(whole_blocks(policy))
    if policy.adapter is not None:
        for model in (policy.hf, full):
            hold_frozen(model, policy, DTYPES[config.dtype])
    # Asked of one rank: nodes of different sizes would see different numbers.
    copies = from_rank_0(lambda: replicas(config.replicas, dims.world))
    shard(policy, config, mesh_for(dims, copies))
    policy.to_empty(device=dims.device)
    policy.hf.tie_weights()
    whole = full.state_dict() | first_values(policy, seed) if full is not None else {}
    state = {f"hf.{k}": v for k, v in whole.items()}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
    set_model_state_dict(policy, state, options=options)
    _broadcast_buffers(policy.hf, full, dims)
    if config.activation_checkpointing:
        recompute(policy)
    return policy.train()


def hold_frozen(model: nn.Module | None, policy: Policy, dtype: torch.dtype) -> None:
    """Has what an adapter leaves as it is in `dtype`, in a model of the policy's names."""
    trained = {n for n, p in policy.hf.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters() if model is not None else ():
        if name not in trained:
            parameter.data = parameter.data.to(dtype)


def whole_blocks(policy: Policy) -> list[nn.Module]:
    """Blocks that are one unit: in others stand FSDP's hooks, which cannot be compiled."""
    units = set(policy.family.experts(policy.hf))
    return [block for block in policy.blocks if units.isdisjoint(block.modules())]


def recompute(policy: Policy) -> None:
    """Of each vision block and language layer, training keeps its input alone for the backward
    pass, which computes the rest again."""
    block: Any
    for block in policy.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = _checkpoint


def _checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(
        function, *args, use_reentrant=False, preserve_rng_state=False
    )


def _broadcast_buffers(hf: Any, full: nn.Module | None, dims: ParallelDims) -> None:
    """Buffers such as rotary frequencies are in no state dict; the shards' copies are empty yet."""
    source = dict(full.named_buffers()) if full is not None else {}
    for name, buffer in hf.named_buffers():
        if full is not None:
            buffer.copy_(source[name])
        dist.broadcast(buffer, src=0)


def freeze(policy: Policy, parts: list[str]) -> None:
    """Fixes the parameters of the named parts ("vision", "projector", "language").

    Raises:
        ModelError: the model has no such part.
    """
    if missing := sorted(set(parts) - policy.family.parts.keys()):
        raise ModelError(
            f"policy.freeze = {parts}: a {policy.family.model_type} has no {missing[0]}"
        )
    for name, parameter in policy.hf.named_parameters():
        parameter.requires_grad_(policy.family.part_of(name) not in parts)


def shard(policy: Policy, config: PolicyConfig, mesh: DeviceMesh) -> None:
    """FSDP2: one unit per vision block and language layer, its experts apart, the rest in the
    root."""
    precision = MixedPrecisionPolicy(
        param_dtype=DTYPES[config.dtype],
        reduce_dtype=torch.float32,
        # Inputs have their right types already; rotary tables must not lose their float32.
        cast_forward_inputs=False,
    )
    for block in (*policy.family.experts(policy.hf), *policy.blocks):
        fully_shard(block, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision)
    register_fsdp_forward_method(policy, "cache_vision")
    policy.register_forward_hook(_reshard_after_scoring)


def reduce_gradients(policy: Any, last: bool, *, once: bool) -> None:
    """Which collectives the next backward pass has; `last`: it is the step's last one.

    Shards are summed over replicas (HSDP) in the last one only, which takes no memory: until then
    each replica adds up its own. `once`: so are whole gradients over shards, which does.
    """
    if once:
        policy.set_requires_gradient_sync(last)
    else:
        policy.set_requires_all_reduce(last)


def _reshard_after_scoring(policy: Any, *_: object) -> None:
    """FSDP leaves the root gathered for the backward pass. Where none follows, it would stay so, in
    the compute dtype, and a checkpoint or an optimizer would not see its shards."""
    if not torch.is_grad_enabled():
        policy.reshard()


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; others as they are. It shares their memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def full_tensor(value: Tensor) -> Tensor:
    """A sharded tensor whole, on every rank (a collective); others as they are.

    It may share the tensor's memory: to be read, not changed or kept.
    """
    if not isinstance(value, DTensor):
        return value
    return value.to_local() if value.device_mesh.size() == 1 else value.full_tensor()


def model_files(path: str | Path) -> list[Path]:
    """The files of a model directory that are not weights: config, tokenizer, processors."""
    weights = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".safetensors.index.json")
    return [f for f in sorted(Path(path).iterdir()) if f.is_file() and not f.name.endswith(weights)]
