"""LLaVA-OneVision: an image whole, and cut into tiles of the grid that fits it best.

A tile is S x S patches. The tiles' features are laid side by side, what only padding is behind is
cut away, and more than 9 tiles' worth is interpolated to so much; each row ends with a learnt
feature. A frame of a video is one tile, its features pooled to half the sides, and one learnt
feature ends the video. The grids are config.json's. `Prompt.media` has, beside tiles.py's, `sizes`
`[M, 2]`: the height and width of each image in pixels; zeros of a video.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from caprl_native.policy.families.base import FAMILIES, MediaFeatures, Prompt
from caprl_native.policy.families.qwen import channel_norms
from caprl_native.policy.families.tiles import Tiled, normalised, parts, shared_out
from caprl_native.policy.model_check import ModelError, tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from caprl_native.config.media import MediaConfig
    from caprl_native.data.media import DecodedImage, DecodedVideo

SHRINK = 0.8  # of an image's sides, from one step of `reduce` to the next


@dataclass(frozen=True)
class LlavaOneVision(Tiled):
    """A SigLIP tower, whose last block is read, a projector, a language model.

    Published files, and vLLM, have the tower's parameters under `vision_model`, which transformers
    5.19 leaves out, and leaves out in what it writes.
    """

    stores_otherwise: ClassVar[bool] = True

    @property
    def fixed(self) -> Mapping[str, Any]:
        return {
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        }

    def check(self, hf: Any, path: str | Path) -> None:
        super().check(hf, path)
        if (kind := hf.config.vision_config.model_type) != "siglip_vision_model":
            raise ModelError(f"{path}: config.json: the tower is a {kind}, and no SigLIP")
        for name, entry in tensors(Path(path)).items():
            if "vision_tower.embeddings." in name:
                raise ModelError(
                    f"{entry.file}: {name} is named as transformers' save_pretrained does it; the "
                    "engine reads the published names, with vision_tower.vision_model. in place of "
                    "vision_tower."
                )

    def stored_name(self, name: str) -> str:
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)

    # How a sample becomes a prompt.

    def processor_kwargs(self, media: MediaConfig) -> dict[str, Any]:
        return {"images_kwargs": {}, "videos_kwargs": {"do_sample_frames": False}}

    def marks(self, processor: Any) -> tuple[int, int]:
        return processor.image_token_id, processor.video_token_id

    def cut(
        self, processor: Any, one: DecodedImage | DecodedVideo, media: MediaConfig
    ) -> dict[str, Tensor]:
        import torch

        from caprl_native.data.media import DecodedImage

        raw: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        if isinstance(one, DecodedImage):
            part = processor.image_processor
            out = part(images=[one.image], **raw)
            tiles, size = out["pixel_values"][0], out["image_sizes"]
        else:
            part = processor.video_processor
            raw["do_sample_frames"] = False
            tiles = part(videos=[one.frames], **raw)["pixel_values_videos"][0]
            size = torch.zeros(1, 2, dtype=torch.long)
        norm = channel_norms(part, len(tiles))
        return {"tiles": tiles, "norm": norm, "counts": torch.tensor([len(tiles)]), "sizes": size}

    def run(self, processor: Any, cut: dict[str, Tensor], video: bool) -> list[int]:
        image_mark, video_mark = self.marks(processor)
        if not video:
            (size,) = cut["sizes"].tolist()
            return [image_mark] * self._features(processor, size)
        side = math.ceil(math.isqrt(processor.num_image_tokens) / 2)
        return [video_mark] * (len(cut["tiles"]) * side**2 + 1)

    def _features(self, processor: Any, size: Sequence[int]) -> int:
        """How many features an image of this height and width has."""
        tile = processor.image_processor.size
        return int(processor._get_number_of_features(*size, tile["height"], tile["width"]))

    def patches(self, processor: Any) -> int:
        return int(processor.num_image_tokens)

    def reduce(
        self,
        processor: Any,
        prompt: Prompt,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
        tokens: int,
    ) -> list[DecodedImage | DecodedVideo] | None:
        """Smaller images, which get fewer tiles, and videos with fewer frames."""
        from caprl_native.data.media import DecodedImage

        frame = math.ceil(math.isqrt(processor.num_image_tokens) / 2) ** 2
        steps: list[dict[int, tuple[int, int]]] = [
            self._smaller(processor, one)
            if isinstance(one, DecodedImage)
            else {count * frame + 1: (count, 0) for count in range(1, len(one.frames) + 1)}
            for one in decoded
        ]
        return shared_out(decoded, steps, tokens)

    def _smaller(self, processor: Any, one: DecodedImage) -> dict[int, tuple[int, int]]:
        """Widths and heights that an image may be reduced to, the largest of each number of
        features that is below those before it."""
        width, height = one.size
        found = {self._features(processor, (height, width)): (width, height)}
        least = min(found)
        while min(width, height) > 1:
            width, height = max(1, int(width * SHRINK)), max(1, int(height * SHRINK))
            if (features := self._features(processor, (height, width))) < least:
                found[least := features] = (width, height)
        return found

    def media_token_ids(self, config: Any) -> tuple[int, ...]:
        return config.image_token_id, config.video_token_id

    banned_token_ids = media_token_ids

    # What the model computes.

    def vision_blocks(self, hf: Any) -> Any:
        return hf.model.vision_tower.encoder.layers

    def read_blocks(self, config: Any) -> list[int]:
        return [config.vision_config.num_hidden_layers - 1]

    def vision_attention(self, config: Any) -> tuple[int, int, int, int]:
        vision = config.vision_config
        return vision.hidden_size, vision.num_hidden_layers, 0, 1

    def patches_per_feature(self, config: Mapping[str, Any]) -> float:
        return 4.0  # of a video's; an image's features are at most one for each patch

    def dummy_media(self, config: Any, device: torch.device) -> dict[str, Tensor]:
        import torch

        vision = config.vision_config
        side = vision.image_size
        sizes = torch.zeros(1, 2, dtype=torch.long, device=device)
        return self.dummy_tiles(vision.num_channels, (side, side), device) | {"sizes": sizes}

    def media_features(self, hf: Any, media: dict[str, Tensor]) -> MediaFeatures:
        import torch

        model, tower = hf.model, hf.model.vision_tower
        hidden = tower.encoder(inputs_embeds=tower.embeddings(normalised(media)))
        features = model.multi_modal_projector(hidden.last_hidden_state)
        found, newline = [], model.image_newline
        each = features.split(media["counts"].tolist())
        for of, size in zip(each, media["sizes"].tolist(), strict=True):
            if any(size):
                (packed,), _ = model.pack_image_features(
                    [of], [size], newline, hf.config.vision_aspect_ratio
                )
                found.append(packed)
            else:
                found += [model.apply_pooling(of).flatten(0, 1), newline[None].to(of.dtype)]
        return MediaFeatures(torch.cat(found))


FAMILIES.add(
    "llava_onevision",
    LlavaOneVision("llava_onevision", parts("multi_modal_projector.", "image_newline")),
)
