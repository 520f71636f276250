"""How large an adapter is, from the names and shapes of a model's weights. No torch here."""

from __future__ import annotations

import re

from caprl_native.config.lora import LoraConfig, part_of
from caprl_native.policy.families.base import Family
from caprl_native.policy.model_size import ModelSize

_BLOCK = re.compile(r"(layers|blocks|h)\.\d+\.")
_ROUTER = "gate"  # of a mixture's experts: a matrix, but no linear layer


def adapter_numbers(model: ModelSize, family: Family, lora: LoraConfig) -> dict[str, int]:
    """Numbers in A and B of each layer that gets them, by its name, as policy/lora.py chooses."""
    return {
        name: lora.rank * sum(model.shapes[f"{name}.weight"])
        for part, name in _linear_layers(model, family)
        if lora.covers(part, name)
    }


def problem(model: ModelSize, family: Family, lora: LoraConfig) -> str:
    """What is wrong with the targets, for this model; empty if nothing is."""
    layers = list(_linear_layers(model, family))
    for target in lora.targets:
        one, part = lora.replace(targets=[target]), part_of(target)
        names = sorted({name.rpartition(".")[2] for p, name in layers if p == part})
        if not any(one.covers(part, name) for name in names):
            has = f"; in its {part} there are {', '.join(names)}" if names else ""
            return f"a {family.model_type} has no linear layer {target!r} that can have one{has}"
    return ""


def _linear_layers(model: ModelSize, family: Family) -> list[tuple[str, str]]:
    """(part, name) of linear layers in numbered blocks, and in the projector."""
    found = []
    for weight, shape in model.shapes.items():
        name, _, last = weight.rpartition(".")
        if last != "weight" or len(shape) != 2 or name.endswith(f".{_ROUTER}"):
            continue
        try:
            part = family.part_of(weight)
        except ValueError:  # a name that the family does not know
            continue
        if part == "projector" or _BLOCK.search(weight):
            found.append((part, name))
    return found
