"""A plugin for a control: whole weights are trained, but only of the layers that an adapter of
`policy.lora.targets = ["language"]` would be in. See `lora.py`."""

from __future__ import annotations

from collections.abc import Sequence

from caprl_native.policy import fsdp
from caprl_native.policy.adapting import linear_layers
from caprl_native.policy.model import Policy


def freeze_all_else(policy: Policy, _: Sequence[str]) -> None:
    """Takes the place of what freezes `policy.freeze`."""
    policy.requires_grad_(False)
    for _, part, layer in linear_layers(policy):
        layer.weight.requires_grad_(part == "language")


fsdp.freeze = freeze_all_else
