"""Adapters in peft's format, which peft and vLLM load: settings, and tensors by their names.

A directory has `adapter_config.json` and `adapter_model.safetensors`. A layer's A and B are
`base_model.model.LAYER.lora_A.weight` and `...lora_B.weight`, LAYER as transformers names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caprl_native.config.lora import LoraConfig

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SUFFIXES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}


def peft_name(parameter: str) -> str:
    """Peft's name of a parameter `LAYER.lora_a` or `LAYER.lora_b`."""
    layer, _, last = parameter.rpartition(".")
    return f"base_model.model.{layer}.{_SUFFIXES[last]}"


def peft_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under peft's names."""
    return {peft_name(name): tensor for name, tensor in tensors.items()}


def peft_config(config: LoraConfig, layers: Iterable[str], base: str = "") -> dict[str, Any]:
    """The settings of an adapter of these layers, whole names; `base`: the directory of the model
    that it is for."""
    alpha = config.scale * config.rank
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": config.dropout,
        "bias": "none",
        "target_modules": sorted(layers),
    }


def write_adapter(
    folder: Path, config: LoraConfig, tensors: Mapping[str, Tensor], base: str | Path
) -> None:
    """Writes the directory; `tensors`: whole, by their parameters' names, in the host's memory."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    layers = {name.rpartition(".")[0] for name in tensors}
    settings = json.dumps(peft_config(config, layers, str(base)), indent=2)
    (folder / CONFIG).write_text(settings + "\n")
    save_file(peft_tensors(tensors), folder / WEIGHTS, metadata={"format": "pt"})
