"""How large a model is, read from its directory without loading it."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters by tensor name, and the model's config."""

    parameters: dict[str, int]
    config: dict[str, Any]

    @property
    def total(self) -> int:
        """All parameters; tied ones count once."""
        return sum(self.parameters.values())

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
        """Numbers that one token adds to the KV cache: keys and values of every layer."""
        text = self.text
        head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
        return 2 * text["num_hidden_layers"] * self.kv_heads * head_dim

    def units(self) -> tuple[int, int]:
        """(parameters outside numbered blocks, parameters of the largest block).

        With one FSDP unit per block, these are what is gathered whole while a block computes.
        """
        blocks: dict[str, int] = {}
        for name, count in self.parameters.items():
            found = re.match(r"(.*?(?:layers|blocks|h)\.\d+)\.", name)
            key = found[1] if found else ""
            blocks[key] = blocks.get(key, 0) + count
        root = blocks.pop("", 0)
        return root, max(blocks.values(), default=0)


def read_model_size(path: str | Path) -> ModelSize | None:
    """The size of the model in a directory; None where there is none, or none in safetensors.

    Raises ValueError for files that are there and cannot be read.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        parameters: dict[str, int] = {}
        for file in _weight_files(folder):
            parameters.update(_header(file))
    except (OSError, ValueError, struct.error) as error:
        raise ValueError(f"{folder}: {error}") from error
    return ModelSize(parameters, config) if parameters else None


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))


def _header(file: Path) -> dict[str, int]:
    """Elements of each tensor of a safetensors file: 8 bytes of length, then a JSON header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {k: math.prod(v["shape"]) for k, v in header.items() if k != "__metadata__"}
