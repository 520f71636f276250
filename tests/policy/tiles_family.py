"""A model family in one file: images are cut into tiles, and positions have one axis.

Each tile of 16 x 16 pixels is one token. The language model is a Qwen3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.policy.families import FAMILIES, MediaFeatures, Prompt
from caprl_native.policy.families.text import Text

SIDE = 16


class TilesConfig(Qwen3Config):
    model_type = "tiles"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.inner(hidden))


class TilesForCaptioning(Qwen3ForCausalLM):
    config_class = TilesConfig

    def __init__(self, config: TilesConfig) -> None:
        super().__init__(config)
        self.embed_tiles = nn.Linear(3 * SIDE * SIDE, config.hidden_size)
        self.tower = nn.ModuleList(Block(config.hidden_size) for _ in range(2))
        self.projector = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()


AutoConfig.register("tiles", TilesConfig)
AutoModelForImageTextToText.register(TilesConfig, TilesForCaptioning)


class Processor:
    def __init__(self, path: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.pad = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, **options)


@dataclass(frozen=True)
class Tiles(Text):
    auto_class: ClassVar[str] = "AutoModelForImageTextToText"

    def load_processor(self, path: str) -> Processor:
        return Processor(path)

    def processor_kwargs(self, media: MediaConfig) -> dict[str, Any]:
        return {}

    def prepare(
        self,
        processor: Processor,
        text: str,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
    ) -> Prompt:
        left, ids = [_tiles(np.asarray(d.image)) for d in decoded], []
        counts = iter(map(len, left))
        for token in processor.tokenizer(text, add_special_tokens=False).input_ids:
            ids += [token] * (next(counts) if token == processor.pad else 1)
        given = torch.tensor(ids)
        prompt = Prompt(given, (given == processor.pad).long())
        if left:
            prompt.media = {"tiles": torch.cat(left)}
            prompt.num_patches = len(prompt.media["tiles"])
        return prompt

    def media_token_ids(self, config: Any) -> tuple[int, ...]:
        return (config.tile_token_id,)

    banned_token_ids = media_token_ids

    def vision_blocks(self, hf: nn.Module) -> nn.ModuleList:
        return hf.tower

    def read_blocks(self, config: Any) -> list[int]:
        return [1]

    def dummy_media(self, config: Any, device: torch.device) -> dict[str, Tensor]:
        return {"tiles": torch.zeros(1, 3 * SIDE * SIDE, device=device)}

    def media_features(self, hf: nn.Module, media: dict[str, Tensor]) -> MediaFeatures:
        hidden = hf.embed_tiles(media["tiles"].to(hf.embed_tiles.weight.dtype))
        for block in hf.tower:
            hidden = block(hidden)
        return MediaFeatures(hf.projector(hidden))


def _tiles(pixels: np.ndarray) -> Tensor:
    """`[N, 3 * SIDE * SIDE]` of pixels `[H, W, 3]`; what is left over at the edges is dropped."""
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    whole = torch.from_numpy(pixels[: rows * SIDE, : columns * SIDE].copy()).float() / 255
    cut = whole.unflatten(0, (rows, SIDE)).unflatten(2, (columns, SIDE))
    return cut.permute(0, 2, 1, 3, 4).reshape(rows * columns, -1)


PARTS = {
    "vision": ("embed_tiles.", "tower."),
    "projector": ("projector.",),
    "language": ("model.", "lm_head."),
}
FAMILIES.add("tiles", Tiles("tiles", PARTS))
