"""A policy's adapter in its engine: vLLM's own layers with one, filled from memory.

The engine computes W x + B (A x) as the trainer does. Adding B A to the engine's weights instead
would lose most of it: in bfloat16 a weight moves by 1/256 of itself at least, and the first steps
change it by far less.

vLLM 0.32 reads adapters from a directory, once for each name; what follows is what its
`LRUCacheWorkerLoRAManager.add_adapter` does behind that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

NUMBER = 1  # vLLM's name of the one adapter that there is
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM has room; smaller ones are padded


@dataclass(frozen=True)
class AdapterRoom:
    """What an engine makes room for: `modules` by the last parts of their names; `tower`: some are
    in the vision tower or the projector."""

    rank: int
    modules: tuple[str, ...]
    tower: bool

    def options(self) -> dict[str, Any]:
        """Arguments of vLLM's `LLM`."""
        return {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": next(rank for rank in RANKS if rank >= self.rank),
            "lora_target_modules": list(self.modules),
            "enable_tower_connector_lora": self.tower,
        }


def request() -> Any:
    """What a request to the engine says to be answered with the adapter."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", NUMBER, "in memory")  # a path that is never read


def take(worker: Any, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Run by each of the engine's workers: puts the adapter in the place of the last one.

    Raises:
        ValueError: the engine has no layer for a tensor.
    """
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    manager = worker.model_runner.lora_manager
    layers = manager._adapter_manager
    mapper = getattr(layers.model, "hf_to_vllm_mapper", None)
    helper = PEFTHelper.from_dict(dict(settings))
    helper.validate_legal(manager.lora_config)
    adapter = LoRAModel.from_lora_tensors(
        NUMBER,
        # Copies: vLLM multiplies B with the scale in place.
        {name: tensor.clone() for name, tensor in tensors.items()},
        peft_helper=helper,
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
    )
    packed = {part for parts in layers.packed_modules.values() for part in parts}
    if missing := sorted(set(adapter.loras) - set(layers.modules) - packed):
        raise ValueError(f"the engine has no layer for the adapter of {missing[0]}")
    layers.remove_adapter(NUMBER)
    layers.add_adapter(adapter)
    layers.activate_adapter(NUMBER)
