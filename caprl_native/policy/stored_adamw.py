"""AdamW whose moments are stored in another precision, or in the host's memory.

The step is the fused AdamW of torch in float32, on the parameters' device, one parameter after the
other: its moments are fetched, used, and stored again. So offloading changes no number, and
bfloat16 costs the rounding of what is stored. A moment of decay rate b changes by up to a share
1 - b per step; bfloat16 rounds at 2^-9, so with b above about 0.99 a moment that should decay would
stand still (`rules.py` refuses it). No GPU has run the offloading yet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from caprl_native.policy.fsdp import local_shard

MOMENTS = ("exp_avg", "exp_avg_sq")


class StoredAdamW(torch.optim.AdamW):
    """`dtype`: of the stored moments; `offload`: they lie in (pinned) memory of the host."""

    def __init__(self, params: Any, *, dtype: torch.dtype, offload: bool, **options: Any) -> None:
        super().__init__(params, fused=True, **options)
        self.dtype, self.offload = dtype, offload

    def empty_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """What a parameter's state is before the first step."""
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step} | {name: self._zeros(parameter) for name in MOMENTS}

    def _zeros(self, parameter: Tensor) -> Tensor:
        """Sharded like the parameter. A shard in the host's memory is made as FSDP makes its own:
        `from_local` would move it to the mesh's device."""
        local = local_shard(parameter)
        host = self.offload and local.is_cuda
        device = torch.device("cpu") if host else local.device
        zeros = torch.zeros(local.shape, dtype=self.dtype, device=device, pin_memory=host)
        if not isinstance(parameter, DTensor):
            return zeros
        mesh, placements = parameter.device_mesh, parameter.placements
        if not host:
            return DTensor.from_local(
                zeros,
                mesh,
                placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
        return DTensor(zeros, parameter._spec, requires_grad=False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        if closure is not None:
            raise ValueError("no closure is evaluated here")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and local_shard(parameter).numel():
                    self._update(parameter, group)
                elif parameter.grad is not None:
                    self.state[parameter]["step"] += 1
        if self.offload and torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # a checkpoint reads the host's memory

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, local = self.state[parameter], local_shard(parameter)
        stored = [local_shard(state[name]) for name in MOMENTS]
        moments = [m.to(local.device, torch.float32, non_blocking=True) for m in stored]
        beta1, beta2 = group["betas"]
        adamw(
            [local],
            [local_shard(parameter.grad)],  # type: ignore[arg-type]
            [moments[0]],
            [moments[1]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for kept, moment in zip(stored, moments, strict=True):
            if kept is not moment:
                kept.copy_(moment, non_blocking=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copies into the state that is there; torch's own would cast it to the parameters' dtype
        and move it to their device."""
        saved = state_dict["state"]
        for ours, theirs in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, index in zip(ours["params"], theirs["params"], strict=True):
                for name, value in self.state[parameter].items():
                    local_shard(value).copy_(local_shard(saved[index][name]))
            ours |= {k: v for k, v in theirs.items() if k != "params"}
