"""How large a model is, read from its directory without loading it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caprl_native.policy.model_check import read_config, tensors

LINEAR_ATTENTION = "linear_attention"  # in `layer_types` of a config
EXPERTS = ".mlp.experts."  # in the names of their weights


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts: how many there are, how many a token goes through, how wide each is."""

    experts: int
    chosen: int
    width: int

    @classmethod
    def of(cls, text: Mapping[str, Any]) -> Mixture | None:
        """By the language model's config; None where there are none."""
        # transformers writes the second name, published files have the first.
        experts = text.get("num_experts") or text.get("num_local_experts")
        if not experts or "moe_intermediate_size" not in text:
            return None
        return cls(experts, text["num_experts_per_tok"], text["moe_intermediate_size"])

    def in_layer(self, text: Mapping[str, Any], layer: int) -> bool:
        """Whether this layer (from 0) has experts in place of a feed-forward."""
        dense = text.get("mlp_only_layers") or ()
        return layer not in dense and (layer + 1) % text.get("decoder_sparse_step", 1) == 0


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters by tensor name, the model's config, and the tensors' shapes."""

    parameters: dict[str, int]
    config: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All parameters; tied ones count once."""
        return sum(self.parameters.values())

    @property
    def active(self) -> int:
        """Parameters that one token meets: of a layer's experts, those that it goes through."""
        mixture = Mixture.of(self.text)
        if mixture is None:
            return self.total
        experts = sum(n for name, n in self.parameters.items() if EXPERTS in name)
        return self.total - experts + experts * mixture.chosen // mixture.experts

    @property
    def text(self) -> dict[str, Any]:
        """The language model's part of the config; the whole of it in a text-only model."""
        return self.config.get("text_config") or self.config

    @property
    def vision(self) -> dict[str, Any]:
        """The vision tower's part of the config; empty in a text-only model."""
        return self.config.get("vision_config") or {}

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values per layer."""
        return self.text.get("num_key_value_heads") or self.text["num_attention_heads"]

    @property
    def kv_per_token(self) -> int:
        """Numbers that one token adds to the KV cache: keys and values of every layer that has some
        (a linear one has a state instead)."""
        text = self.text
        layers = text["num_hidden_layers"] - (text.get("layer_types") or []).count(LINEAR_ATTENTION)
        head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
        return 2 * layers * self.kv_heads * head_dim

    def units(self) -> tuple[int, int]:
        """(parameters outside numbered blocks, parameters of the largest block).

        With one FSDP unit per block, these are what is gathered whole while a block computes. A
        layer's experts, a unit of their own, are counted with the layer, which is gathered with
        them.
        """
        blocks: dict[str, int] = {}
        for name, count in self.parameters.items():
            found = re.match(r"(.*?(?:layers?|blocks|h)\.\d+)\.", name)
            key = found[1] if found else ""
            blocks[key] = blocks.get(key, 0) + count
        root = blocks.pop("", 0)
        return root, max(blocks.values(), default=0)


def read_model_size(path: str | Path) -> ModelSize | None:
    """The size of the model in a directory; None where there is none, or none in safetensors.

    Raises ModelError (a ValueError) for files that are there and cannot be read.
    """
    folder = Path(path)
    if not os.path.isfile(folder / "config.json"):
        return None
    config = read_config(folder)
    found = tensors(folder)
    parameters = {name: entry.elements for name, entry in found.items()}
    shapes = {name: entry.shape for name, entry in found.items()}
    return ModelSize(parameters, config, shapes) if parameters else None
