"""A policy's adapter in its engine: vLLM's own layers with one, filled from memory.

The engine computes W x + B (A x) as the trainer does. Adding B A to the engine's weights instead
(`policy.lora.sync = "merged"`) loses most of it at first: in bfloat16 a weight moves by 1/256 of
itself at least, and the first steps change it by far less.

vLLM 0.32 reads adapters from a directory, once for each name; what follows is what its
`LRUCacheWorkerLoRAManager.add_adapter` does behind that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from caprl_native.distributed.errors import RunError
from caprl_native.policy.model_check import read_config
from caprl_native.rollout.cpu_adapters import simplify

NUMBER = 1  # vLLM's name of the one adapter that there is
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM has room; smaller ones are padded


@dataclass(frozen=True)
class AdapterRoom:
    """What an engine makes room for: `layers` by transformers' names; `tower`: some are in the
    vision tower or the projector."""

    rank: int
    layers: tuple[str, ...]
    tower: bool

    def options(self, path: str) -> dict[str, Any]:
        """Arguments of vLLM's `LLM` for the model in a directory.

        Raises:
            RunError: vLLM has no adapters for it, or none in its vision tower.
        """
        require_support(path, tower=self.tower)
        return {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": next(rank for rank in RANKS if rank >= self.rank),
            "lora_target_modules": targets(path, self.layers),
            "enable_tower_connector_lora": self.tower,
        }


def require_support(path: str, *, tower: bool) -> None:
    """Raises RunError where vLLM's class of a directory's model takes no adapter."""
    model = _model_class(path)
    if model is None:  # one of transformers', of which vLLM tells only when it starts
        return
    if not getattr(model, "supports_lora", False):
        raise RunError(
            f"policy.lora.rank: vLLM has no adapters for a {model.__name__} ({path}): set "
            f'policy.lora.sync = "merged"'
        )
    if tower and not getattr(model, "supports_tower_connector_lora", False):
        raise RunError(
            f"policy.lora.targets: vLLM has no adapters in the vision tower or the projector of a "
            f"{model.__name__} ({path}): leave them to the language model, or set "
            'policy.lora.sync = "merged"'
        )


def targets(path: str, layers: Iterable[str]) -> list[str]:
    """The names by which vLLM finds layers of a model that is not built yet: whole ones in its own
    spelling; of those that it fuses (q_proj) the last part. A last part alone ("proj") may be that
    of something else, too: the embedding of patches, which ends the start."""
    model = _model_class(path)
    mapper = _renames(model)
    packed = getattr(model, "packed_modules_mapping", {}).values()
    fused = {child for children in packed for child in children}
    found = set()
    for layer in layers:
        last = layer.rpartition(".")[2]
        found.add(last if last in fused else mapper._map_name(layer) if mapper else layer)
    return sorted(found)


def _model_class(path: str) -> Any:
    """vLLM's class of a directory's model, or None where it makes one of transformers'."""
    from vllm.model_executor.models import ModelRegistry

    known = map(ModelRegistry._try_load_model_cls, read_config(path).get("architectures") or ())
    return next((model for model in known if model is not None), None)


def _renames(model: Any) -> Any:
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    return mapper.get_rename_mapper() if mapper is not None else None


def request() -> Any:
    """What a request to the engine says to be answered with the adapter."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", NUMBER, "in memory")  # a path that is never read


def take(worker: Any, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Run by each of the engine's workers: puts the adapter in the place of the last one.

    Raises:
        RunError: the engine has no layer for a tensor.
    """
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    manager = worker.model_runner.lora_manager
    layers = manager._adapter_manager
    helper = PEFTHelper.from_dict(dict(settings))
    helper.validate_legal(manager.lora_config)
    adapter = LoRAModel.from_lora_tensors(
        NUMBER,
        # Copies: vLLM multiplies B with the scale in place.
        {name: tensor.clone() for name, tensor in tensors.items()},
        peft_helper=helper,
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=_renames(layers.model),
    )
    packed = {part for parts in layers.packed_modules.values() for part in parts}
    if missing := sorted(set(adapter.loras) - set(layers.modules) - packed):
        raise RunError(
            f"policy.lora.targets: the engine has no layer for the adapter of {missing[0]}: leave "
            "layers of this name out"
        )
    simplify(layers)
    layers.remove_adapter(NUMBER)
    layers.add_adapter(adapter)
    layers.activate_adapter(NUMBER)
