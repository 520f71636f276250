"""What `tools/init_vlm.py` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from caprl_native.init_vlm.projector import Init
from caprl_native.model_directory import SHARD_BYTES


@dataclass(frozen=True)
class Request:
    """What is to be made. `vision`: the model whose tower, config, tokenizer and processor the
    result has; `language`: the one whose language model it has."""

    vision: Path
    language: Path
    target: Path
    projector: Literal["new", "keep"] = "new"
    init: Init = "default"
    seed: int = 0
    dtype: str = "bfloat16"
    verify: Literal["small", "always", "never"] = "small"
    shard_bytes: int = SHARD_BYTES
