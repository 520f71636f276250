"""AdamW and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from caprl_native.config.schema import PolicyConfig
from caprl_native.policy.fsdp import DTYPES, local_shard
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.stored_adamw import StoredAdamW


def build_optimizer(model: nn.Module, config: PolicyConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that train, its state allocated; biases and norms do not decay.

    Raises:
        ModelError: every parameter is frozen; or a part that has a rate of its own is not there.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ModelError(f"policy.freeze = {config.freeze} leaves nothing to train")
    parts = _by_rate(model, config, trainable)
    groups = [
        {"params": [p for p in part if (p.ndim >= 2) == matrices], "weight_decay": decay} | peak
        for matrices, decay in ((True, config.weight_decay), (False, 0.0))
        for part, peak in parts
    ]
    options: dict[str, Any] = {
        "lr": config.lr,
        "betas": (config.betas[0], config.betas[1]),
        "eps": config.eps,
    }
    filled = [g for g in groups if g["params"]]
    if config.optimizer_offload or config.optimizer_dtype != "float32":
        dtype, offload = DTYPES[config.optimizer_dtype], config.optimizer_offload
        optimizer: torch.optim.AdamW = StoredAdamW(filled, dtype=dtype, offload=offload, **options)
    else:
        optimizer = torch.optim.AdamW(filled, fused=True, **options)
    allocate_state(optimizer)
    return optimizer


def _by_rate(
    model: Any, config: PolicyConfig, trainable: list[nn.Parameter]
) -> list[tuple[list[nn.Parameter], dict[str, float]]]:
    """The parameters, apart by learning rate where parts have their own, and that as `peak`."""
    rates = {"vision": config.lr_vision, "projector": config.lr_projector}
    own = {part: rate for part, rate in rates.items() if rate >= 0}
    if not own:
        return [(trainable, {})]
    if missing := sorted(own.keys() - model.family.parts.keys()):
        kind, part = model.family.model_type, missing[0]
        raise ModelError(f"policy.lr_{part}: a {kind} has no {part}: leave it at -1")
    part_of = {
        parameter: model.family.part_of(name)
        for name, parameter in model.hf.named_parameters()
        if parameter.requires_grad
    }
    parts = [(part, {"peak": rate}) for part, rate in own.items()]
    rest = [p for p in trainable if part_of[p] not in own]
    apart = [([p for p in trainable if part_of[p] == part], peak) for part, peak in parts]
    return [(rest, {}), *apart]


@torch.no_grad()
def allocate_state(optimizer: torch.optim.AdamW) -> None:
    """Gives a fused AdamW now the state that it would give itself in its first step.

    An engine that starts later measures how much memory is free. State that came after it would
    not fit beside its cache, hours into the run, when the first batch has been sampled.
    """
    make = optimizer.empty_state if isinstance(optimizer, StoredAdamW) else _zeros
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = make(parameter)


def _zeros(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def learning_rate(config: PolicyConfig, step: int, steps: int, peak: float | None = None) -> float:
    """The learning rate of update `step` (from 0) of `steps`: warm-up, then the schedule.

    The schedule ends at `config.schedule_steps`, or where 0 with the run. `peak`: None: policy.lr.
    """
    peak = config.lr if peak is None else peak
    warmup = config.warmup_steps or math.ceil(config.warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    steps = config.schedule_steps or steps
    done = (step - warmup) / max(1, steps - warmup)
    shape = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
    }[config.schedule]
    return peak * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * max(shape, 0.0))


def apply_gradients(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: PolicyConfig,
    loss: float,
    norm: float,
    *,
    step: int,
    update: int,
    updates: int,
) -> None:
    """Clips the gradients of this norm (`squared_norms`, of all ranks together) and steps.

    `update` (from 0) of so many `updates` of the run decides on the learning rate; `step` is the
    run's step (from 1), for messages.

    Raises:
        FloatingPointError: `loss` or the norm is not finite, and the weights are untouched; or a
            weight of this rank is not finite after the step.
    """
    require_finite(step, {"loss": loss, "gradient's norm": norm})
    if config.max_grad_norm:
        clip(model, config.max_grad_norm, norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, update, updates, group.get("peak"))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    check_finite(model, step)


@torch.no_grad()
def squared_norms(model: nn.Module) -> Tensor:
    """This rank's shares of the squares of the gradients' norms `[N]`; all ranks' add up.

    Of replicas (HSDP), which hold the same gradients, the first alone has a share.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    squared = torch.stack(torch._foreach_norm([local_shard(g) for g in gradients])) ** 2
    mesh = gradients[0].device_mesh if isinstance(gradients[0], DTensor) else None
    counts = mesh is None or mesh.ndim == 1 or mesh.get_local_rank(0) == 0
    return squared if counts else torch.zeros_like(squared)


@torch.no_grad()
def clip(model: nn.Module, limit: float, norm: float) -> None:
    """Scales gradients of this norm down to `limit`, as `torch.nn.utils.clip_grad_norm_` does."""
    gradients = [local_shard(p.grad) for p in model.parameters() if p.grad is not None]
    length = torch.tensor(norm, dtype=torch.float32, device=gradients[0].device)
    torch._foreach_mul_(gradients, torch.clamp(limit / (length + 1e-6), max=1.0))


def require_finite(step: int, values: Mapping[str, float]) -> None:
    """Raises FloatingPointError where a number that decides on the step is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"step {step}: the {name} is {value}; the weights are as they were before it: go "
                "on from the last checkpoint (--resume) with a lower policy.lr"
            )


def check_finite(model: nn.Module, step: int) -> None:
    """Raises FloatingPointError where a weight of this rank that trains is NaN or infinite.

    Called after the optimizer's step. What saves, exports or syncs weights needs all ranks: none of
    it happens once one has left.
    """
    if names := not_finite((n, p) for n, p in model.named_parameters() if p.requires_grad):
        raise FloatingPointError(
            f"step {step}: {len(names)} of the weights are not finite after the optimizer's step, "
            f"e.g. {names[0]}; nothing of this step is saved: go on from the last checkpoint "
            "(--resume) with a lower policy.lr or policy.max_grad_norm"
        )


@torch.no_grad()
def not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of tensors of which this rank's shard holds a NaN or an infinity.

    The largest magnitude of each shard is one fused kernel; a NaN comes through.
    """
    shards = {n: shard for n, p in named if (shard := local_shard(p)).numel()}
    if not shards:
        return []
    largest = torch.stack(torch._foreach_norm(list(shards.values()), math.inf)).tolist()
    return [name for name, v in zip(shards, largest, strict=True) if not math.isfinite(v)]
