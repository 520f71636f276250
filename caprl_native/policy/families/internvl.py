"""InternVL in transformers' own format (model names end in -HF): images are cut into tiles.

A tile of 448 x 448 pixels is 1,024 patches and, its class token dropped and 2 x 2 patches joined,
256 tokens. An image of i x j tiles is followed by a thumbnail where i j > 1; a frame of a video is
one tile. Positions have one axis. The language model is any that text.py would train.

`Prompt.media`: `tiles` uint8 `[N, C, S, S]`; `norm` `[N, 2, C]`, mean and deviation of their
channels; `counts` `[M]`, how many tiles each medium has. In a prompt a video's features stand at
video marks, which is where vLLM has them; transformers takes the images' mark for both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from caprl_native.policy.families.base import FAMILIES, MediaFeatures, Prompt
from caprl_native.policy.families.qwen import channel_norms
from caprl_native.policy.families.text import Text, language_problem
from caprl_native.policy.model_check import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from caprl_native.config.schema import MediaConfig
    from caprl_native.data.media import DecodedImage, DecodedVideo

IMAGE, VIDEO = 1, 2  # in Prompt.token_types


@dataclass(frozen=True)
class InternVL(Text):
    """Tower, pixel shuffle, projector and a language model, side by side under `model`."""

    auto_class: ClassVar[str] = "AutoModelForImageTextToText"
    mixes_media: ClassVar[bool] = True

    def check(self, hf: Any, path: str | Path) -> None:
        config = hf.config
        layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
        if (layer, strategy) != (-1, "default"):
            raise ModelError(
                f"{path}: config.json: the engine has no vision_feature_layer = {layer} with "
                f"vision_feature_select_strategy = {strategy!r}, it computes -1 and 'default'"
            )
        if problem := language_problem(hf):
            raise ModelError(f"{path}: {self.model_type} cannot be trained here: {problem}")

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

    def prepare(
        self,
        processor: Any,
        text: str,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
    ) -> Prompt:
        import torch

        ids, types = [], []
        cut = [self._tiles(processor, one, media) for one in decoded]
        left = iter(cut)
        image, video = processor.image_token_id, self._mark(processor, "video_token")
        for token in processor.tokenizer(text).input_ids:
            if token not in (image, video):
                ids.append(token)
                types.append(0)
                continue
            run = self._run(processor, len(next(left)[0]), token == video)
            ids += run
            types += [(VIDEO if token == video else IMAGE) * (t == token) for t in run]
        prompt = Prompt(torch.tensor(ids), torch.tensor(types))
        if (more := next(left, None)) is not None:
            raise ValueError(f"the chat template has no place for {len(more[0])} tiles")
        if cut:
            tiles, norms = (torch.cat(parts) for parts in zip(*cut, strict=True))
            counts = torch.tensor([len(one) for one, _ in cut])
            prompt.media = {"tiles": tiles, "norm": norms, "counts": counts}
            patches = 1 + round(processor.image_seq_length / _SHUFFLE**2)  # and the class token
            prompt.num_patches = len(tiles) * patches
            prompt.patch_pairs = len(tiles) * patches**2
        return prompt

    def _tiles(
        self, processor: Any, one: DecodedImage | DecodedVideo, media: MediaConfig
    ) -> tuple[Tensor, Tensor]:
        """A medium's tiles uint8 `[N, C, S, S]`, and their norms `[N, 2, C]`; see `normalised`."""
        from caprl_native.data.media import DecodedImage

        raw: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        options = self.processor_kwargs(media)
        image = processor.image_processor
        if isinstance(one, DecodedImage):
            tiles = image(images=[one.image], **raw, **options["images_kwargs"])["pixel_values"]
            return tiles, channel_norms(image, len(tiles))
        side = _side(processor)  # of the images, as the engine has it
        raw |= options["videos_kwargs"] | {"size": {"height": side, "width": side}}
        tiles = processor.video_processor(videos=[one.frames], **raw)["pixel_values_videos"][0]
        return tiles, channel_norms(processor.video_processor, len(tiles))

    def _run(self, processor: Any, tiles: int, video: bool) -> list[int]:
        """The tokens of a medium, as the engine puts them in the place of its mark."""
        start, end = processor.start_image_token, processor.end_image_token
        per_tile = processor.image_seq_length
        if video:
            shown = f"{start}{processor.video_token * per_tile}{end}"
            text = "\n".join(f"Frame{i + 1}: {shown}" for i in range(tiles))
        else:
            text = f"{start}{processor.image_token * per_tile * tiles}{end}"
        ids: list[int] = processor.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def reduce(
        self,
        processor: Any,
        prompt: Prompt,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
        tokens: int,
    ) -> list[DecodedImage | DecodedVideo] | None:
        """Images with fewer tiles, videos with fewer frames."""
        from caprl_native.data.media import DecodedImage, DecodedVideo, resized
        from caprl_native.data.sizes import share_out

        side = _side(processor)
        grids = [
            _grids(one.size, side, media) if isinstance(one, DecodedImage) else {}
            for one in decoded
        ]
        counts = [
            sorted(steps) if isinstance(one, DecodedImage) else list(range(1, len(one.frames) + 1))
            for one, steps in zip(decoded, grids, strict=True)
        ]
        ladders = [[(count, 1) for count in steps] for steps in counts]
        shared = share_out(ladders, [1] * len(ladders), tokens // processor.image_seq_length)
        if shared is None or not decoded:
            return None
        made: list[DecodedImage | DecodedVideo] = []
        for one, steps, (count, _) in zip(decoded, grids, shared, strict=True):
            if isinstance(one, DecodedVideo):
                made.append(_thinned(one, count))
            elif count == max(steps):
                made.append(one)
            else:  # the canvas of a grid is cut into that very grid
                made.append(resized(one, (steps[count][0] * side, steps[count][1] * side)))
        return made

    # Where tokens stand, and which of them are not text.

    def _mark(self, processor: Any, name: str) -> int:
        return int(processor.tokenizer.convert_tokens_to_ids(getattr(processor, name)))

    def media_token_ids(self, config: Any) -> tuple[int, ...]:
        return config.image_token_id, _marks(config.name_or_path)["video_token"]

    def banned_token_ids(self, config: Any) -> tuple[int, ...]:
        return config.image_token_id, *_marks(config.name_or_path).values()

    # What the model computes.

    def vision_blocks(self, hf: Any) -> Any:
        return hf.model.vision_tower.encoder.layer

    def read_blocks(self, config: Any) -> list[int]:
        return [config.vision_config.num_hidden_layers - 1]

    def vision_attention(self, config: Any) -> tuple[int, int, int, int]:
        vision = config.vision_config
        return vision.hidden_size, vision.num_hidden_layers, 0, round(_SHUFFLE**-2)

    def language_layers(self, hf: Any) -> Any:
        return hf.model.language_model.layers

    def dummy_media(self, config: Any, device: torch.device) -> dict[str, Tensor]:
        import torch

        vision = config.vision_config
        channels = vision.num_channels
        tiles = torch.zeros(1, channels, *vision.image_size, dtype=torch.uint8, device=device)
        norm = torch.tensor([0.0, 1.0], device=device)[None, :, None].expand(1, 2, channels)
        counts = torch.ones(1, dtype=torch.long, device=device)
        return {"tiles": tiles, "norm": norm, "counts": counts}

    def tower_input(self, media: dict[str, Tensor]) -> Sequence[Tensor]:
        return normalised(media).split(media["counts"].tolist())

    def media_features(self, hf: Any, media: dict[str, Tensor]) -> MediaFeatures:
        out = hf.model.get_image_features(pixel_values=normalised(media), return_dict=True)
        return MediaFeatures(out.pooler_output.flatten(0, 1))

    def language(
        self,
        hf: Any,
        embeds: Tensor,
        prefixes: Any,
        positions: Tensor,
        media_mask: Tensor,
        features: MediaFeatures | None,
    ) -> Tensor:
        out = hf.model.language_model(
            inputs_embeds=embeds, position_ids=positions[0], prefixes=prefixes, use_cache=False
        )
        return out.last_hidden_state


_SHUFFLE = 0.5


def normalised(media: dict[str, Tensor]) -> Tensor:
    """The tower's input `[N, C, S, S]`, float32, as the processor would have made it."""
    mean, deviation = media["norm"][..., None, None].unbind(1)
    return media["tiles"].float().sub_(mean).div_(deviation)


def _side(processor: Any) -> int:
    """Pixels of a tile's side."""
    return int(processor.image_processor.size["height"])


def _grids(size: tuple[int, int], side: int, media: MediaConfig) -> dict[int, tuple[int, int]]:
    """The grids (columns, rows) that an image may have, each of the best aspect among those of no
    more tiles, by the tiles that they make with the thumbnail."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    found: dict[int, tuple[int, int]] = {}
    width, height = size
    for most in range(media.tiles_min, media.tiles_max + 1):
        grid = get_optimal_tiled_canvas((height, width), (side, side), media.tiles_min, most)
        cells = grid[0] * grid[1]
        found[cells + (media.thumbnail and cells > 1)] = grid
    return found


def _thinned(video: DecodedVideo, count: int) -> DecodedVideo:
    """So many frames of a video, evenly spaced."""
    from caprl_native.data.media import DecodedVideo

    total = len(video.frames)
    if count == total:
        return video
    kept = [(2 * i + 1) * total // (2 * count) for i in range(count)]
    indices = [video.metadata["frames_indices"][i] for i in kept]
    return DecodedVideo(video.frames[kept], video.metadata | {"frames_indices": indices})


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
    from transformers.models.got_ocr2 import image_processing_got_ocr2 as module

    kind = module.GotOcr2ImageProcessor
    preprocess, crop = kind._preprocess, kind.crop_image_to_patches

    class Options(module.GotOcr2ImageProcessorKwargs, total=False):
        thumbnail: bool

    def preprocess_with(self: Any, *args: Any, thumbnail: bool | None = None, **more: Any) -> Any:
        token = _THUMBNAIL.set(thumbnail is not False)
        try:
            return preprocess(self, *args, **more)
        finally:
            _THUMBNAIL.reset(token)

    def crop_with(self: Any, *args: Any, **more: Any) -> Any:
        return crop(self, *args, **more, use_thumbnail=_THUMBNAIL.get())

    kind.valid_kwargs = Options
    kind._preprocess, kind.crop_image_to_patches = preprocess_with, crop_with


def _parts() -> dict[str, tuple[str, ...]]:
    """Published files have the names of older versions, without `model.`."""
    names = {
        "vision": ("vision_tower.",),
        "projector": ("multi_modal_projector.",),
        "language": ("language_model.",),
    }
    both = {part: (*of, *(f"model.{name}" for name in of)) for part, of in names.items()}
    return both | {"language": (*both["language"], "lm_head.")}


FAMILIES.add("internvl", InternVL("internvl", _parts()))
