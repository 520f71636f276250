"""InternVL in transformers' own format (model names end in -HF): images are cut into tiles.

A tile of 448 x 448 pixels is 1,024 patches and, its class token dropped and 2 x 2 patches joined,
256 tokens. An image of i x j tiles is followed by a thumbnail where i j > 1; a frame of a video is
one tile. In a prompt a video's features stand at video marks, which is where vLLM has them;
transformers takes the images' mark for both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caprl_native.policy.families.base import FAMILIES, MediaFeatures, Prompt
from caprl_native.policy.families.qwen import channel_norms
from caprl_native.policy.families.tiles import Tiled, normalised, parts, shared_out

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from caprl_native.config.media import MediaConfig
    from caprl_native.data.media import DecodedImage, DecodedVideo

SHUFFLE = 0.5  # one side of the patches that are joined, over that of the token


@dataclass(frozen=True)
class InternVL(Tiled):
    """Tower, pixel shuffle, projector, language model."""

    @property
    def fixed(self) -> Mapping[str, Any]:
        return {
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "downsample_ratio": SHUFFLE,
        }

    # How a sample becomes a prompt.

    def processor_kwargs(self, media: MediaConfig) -> dict[str, Any]:
        """The tiling's limits. transformers knows no tiling without a thumbnail; this process's
        image processors, the engine's too, learn it where it is asked for."""
        tiling: dict[str, Any] = {
            "crop_to_patches": True,
            "min_patches": media.tiles_min,
            "max_patches": media.tiles_max,
        }
        if not media.thumbnail:
            _teach_processors()
            tiling["thumbnail"] = False
        return {"images_kwargs": tiling, "videos_kwargs": {"do_sample_frames": False}}

    def marks(self, processor: Any) -> tuple[int, int]:
        video = processor.tokenizer.convert_tokens_to_ids(processor.video_token)
        return processor.image_token_id, video

    def cut(
        self, processor: Any, one: DecodedImage | DecodedVideo, media: MediaConfig
    ) -> dict[str, Tensor]:
        import torch

        from caprl_native.data.media import DecodedImage

        raw: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        options, part = self.processor_kwargs(media), processor.image_processor
        if isinstance(one, DecodedImage):
            tiles = part(images=[one.image], **raw, **options["images_kwargs"])["pixel_values"]
        else:
            side = _side(processor)  # of the images, as the engine has it
            raw |= options["videos_kwargs"] | {"size": {"height": side, "width": side}}
            part = processor.video_processor
            tiles = part(videos=[one.frames], **raw)["pixel_values_videos"][0]
        norm = channel_norms(part, len(tiles))
        return {"tiles": tiles, "norm": norm, "counts": torch.tensor([len(tiles)])}

    def run(self, processor: Any, cut: dict[str, Tensor], video: bool) -> list[int]:
        return self._shown(processor, len(cut["tiles"]), video)

    def _shown(self, processor: Any, tiles: int, video: bool) -> list[int]:
        """The tokens of a medium of so many tiles."""
        start, end = processor.start_image_token, processor.end_image_token
        per_tile = processor.image_seq_length
        if video:
            shown = f"{start}{processor.video_token * per_tile}{end}"
            text = "\n".join(f"Frame{i + 1}: {shown}" for i in range(tiles))
        else:
            text = f"{start}{processor.image_token * per_tile * tiles}{end}"
        ids: list[int] = processor.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def patches(self, processor: Any) -> int:
        return 1 + round(processor.image_seq_length / SHUFFLE**2)  # and the class token

    def reduce(
        self,
        processor: Any,
        prompt: Prompt,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
        tokens: int,
    ) -> list[DecodedImage | DecodedVideo] | None:
        """Images with fewer tiles, videos with fewer frames."""
        from caprl_native.data.media import DecodedImage

        side, per_tile = _side(processor), processor.image_seq_length
        steps: list[dict[int, tuple[int, int]]] = []
        for one in decoded:
            if isinstance(one, DecodedImage):  # what has a grid's very size is cut into that grid
                of = grids(one.size, side, media)
                steps.append({n * per_tile: (w * side, h * side) for n, (w, h) in of.items()})
                continue
            most = len(one.frames)
            marks = len(self._shown(processor, most, video=True)) - most * per_tile
            frame = per_tile + math.ceil(marks / most)  # with its number and its marks
            tokens += marks
            steps.append({count * frame: (count, 1) for count in range(1, most + 1)})
        return shared_out(decoded, steps, tokens)

    def media_token_ids(self, config: Any) -> tuple[int, ...]:
        return config.image_token_id, _marks(config.name_or_path)["video_token"]

    def banned_token_ids(self, config: Any) -> tuple[int, ...]:
        marks = {config.image_token_id, *_marks(config.name_or_path).values()}
        # A tokenizer's <video> may be one past the head: what has no row cannot be sampled, and
        # vLLM refuses to be told so.
        return tuple(sorted(i for i in marks if i < config.get_text_config().vocab_size))

    # What the model computes.

    def vision_blocks(self, hf: Any) -> Any:
        return hf.model.vision_tower.encoder.layer

    def read_blocks(self, config: Any) -> list[int]:
        return [config.vision_config.num_hidden_layers - 1]

    def vision_attention(self, config: Any) -> tuple[int, int, int, int]:
        vision = config.vision_config
        return vision.hidden_size, vision.num_hidden_layers, 0, round(SHUFFLE**-2)

    def patches_per_feature(self, config: Mapping[str, Any]) -> float:
        per_tile: int = config["image_seq_length"]
        return SHUFFLE**-2 + 1 / per_tile  # and the class token

    def dummy_media(self, config: Any, device: torch.device) -> dict[str, Tensor]:
        vision = config.vision_config
        return self.dummy_tiles(vision.num_channels, vision.image_size, device)

    def media_features(self, hf: Any, media: dict[str, Tensor]) -> MediaFeatures:
        out = hf.model.get_image_features(pixel_values=normalised(media), return_dict=True)
        return MediaFeatures(out.pooler_output.flatten(0, 1))


def _side(processor: Any) -> int:
    """Pixels of a tile's side."""
    return int(processor.image_processor.size["height"])


def grids(size: tuple[int, int], side: int, media: MediaConfig) -> dict[int, tuple[int, int]]:
    """The grids (columns, rows) of an image of a width and height, each the best among those of no
    more tiles, by the tiles that they make with the thumbnail."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    found: dict[int, tuple[int, int]] = {}
    width, height = size
    for most in range(media.tiles_min, media.tiles_max + 1):
        grid = get_optimal_tiled_canvas((height, width), (side, side), media.tiles_min, most)
        cells = grid[0] * grid[1]
        found[cells + (media.thumbnail and cells > 1)] = grid
    return found


@functools.lru_cache(maxsize=4)
def _marks(path: str) -> dict[str, int]:
    """The tokens that stand around media, and for videos, by their names in the tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    names = ("start_image_token", "end_image_token", "video_token")
    return {name: tokenizer.convert_tokens_to_ids(getattr(tokenizer, name)) for name in names}


_THUMBNAIL = ContextVar("thumbnail", default=True)


@functools.cache
def _teach_processors() -> None:
    """Gives transformers' tiling an option `thumbnail`, by which it leaves the last tile out."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import (
        GotOcr2ImageProcessor as Processor,
    )
    from transformers.models.got_ocr2.image_processing_got_ocr2 import (
        GotOcr2ImageProcessorKwargs as Known,
    )

    preprocess, crop = Processor._preprocess, Processor.crop_image_to_patches

    class Options(Known, total=False):  # type: ignore[call-arg]
        thumbnail: bool

    def preprocess_with(self: Any, *args: Any, thumbnail: bool | None = None, **more: Any) -> Any:
        token = _THUMBNAIL.set(thumbnail is not False)
        try:
            return preprocess(self, *args, **more)
        finally:
            _THUMBNAIL.reset(token)

    def crop_with(self: Any, *args: Any, **more: Any) -> Any:
        return crop(self, *args, **more, use_thumbnail=_THUMBNAIL.get())

    Processor.valid_kwargs = Options
    Processor._preprocess, Processor.crop_image_to_patches = preprocess_with, crop_with


FAMILIES.add("internvl", InternVL("internvl", parts("multi_modal_projector.")))
