"""Qwen2.5-VL and Qwen3-VL: one layout of modules, mRoPE with three axes.

`Prompt.media`: `patches` `[N, C * D]` of all media, uint8, D numbers of each of C channels; `grid`
`[M, 3]` (time, height, width, in patches); `norm` `[M, 2, C]`, mean and deviation of the channels,
by which the tower's input is normalised; and of Qwen2.5-VL's videos `seconds` `[M]` between two
grids in time. The engine's frames are made of the same patches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from caprl_native.policy.families.base import FAMILIES, Family, MediaFeatures, Prompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from caprl_native.config.media import MediaConfig
    from caprl_native.data.media import DecodedImage, DecodedVideo

VIDEO = 2  # in Prompt.token_types, as the processors have it; images are 1


@dataclass(frozen=True)
class Qwen(Family):
    """Both families' processors, positions and modules."""

    mixes_media: ClassVar[bool] = True
    text_names: ClassVar[Mapping[str, str]] = {
        "model.language_model.": "model.",
        "model.": "model.",  # of older files
        "lm_head.": "lm_head.",
    }

    def processor_kwargs(self, media: MediaConfig) -> dict[str, Any]:
        """Frames are chosen and sizes are capped when media are decoded, so the processor only
        rounds sizes to whole patches. The limits are spelled out because directories ship others.
        """
        return {
            "images_kwargs": {
                "size": {
                    "shortest_edge": media.image_min_pixels,
                    "longest_edge": media.image_max_pixels,
                }
            },
            "videos_kwargs": {
                # Counted over all frames of a video, unlike the images' limits.
                "size": {"shortest_edge": 1, "longest_edge": media.video_total_pixels},
                "do_sample_frames": False,
                "cap_pixels_per_frame": False,
            },
        }

    def prepare(
        self,
        processor: Any,
        text: str,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
    ) -> Prompt:
        import numpy as np
        import torch

        from caprl_native.data.media import DecodedImage, DecodedVideo

        inputs: dict[str, Any] = {"text": [text], "return_mm_token_type_ids": True}
        options = self.processor_kwargs(media)
        for kind in options.values():
            kind |= {"do_rescale": False, "do_normalize": False}  # uint8; see `normalised`
        if images := [d.image for d in decoded if isinstance(d, DecodedImage)]:
            inputs["images"] = images
        if videos := [d for d in decoded if isinstance(d, DecodedVideo)]:
            inputs["videos"] = [video.frames for video in videos]
            options["videos_kwargs"]["video_metadata"] = [
                {k: v for k, v in video.metadata.items() if k != "do_sample_frames"}
                for video in videos
            ]
        out = processor(**inputs, **options, return_tensors="pt")
        prompt = Prompt(out["input_ids"][0], out["mm_token_type_ids"][0])
        if decoded:
            order = [not isinstance(d, DecodedImage) for d in decoded]
            prompt.media = media_of = _in_order(processor, out, order)
            grid = media_of["grid"].tolist()
            prompt.num_patches = len(media_of["patches"])
            prompt.patch_pairs = sum(t * (h * w) ** 2 for t, h, w in grid)
            if (seconds := out.get("second_per_grid_ts")) is not None:
                media_of["seconds"] = torch.from_numpy(np.asarray(seconds, dtype=np.float64))
            part = processor.image_processor if images else processor.video_processor
            metadata = [None if isinstance(d, DecodedImage) else d.metadata for d in decoded]
            pixels = Pixels.of(part, metadata)
            sizes = [
                options["videos_kwargs" if video else "images_kwargs"]["size"] for video in order
            ]
            if pixels.are_kept(grid, sizes):
                prompt.pixels = pixels
        return prompt

    def reduce(
        self,
        processor: Any,
        prompt: Prompt,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
        tokens: int,
    ) -> list[DecodedImage | DecodedVideo] | None:
        from caprl_native.data.media import DecodedImage, resized
        from caprl_native.data.sizes import ladder, share_out

        if prompt.media is None:
            return None
        parts, kinds = _processors(processor), self.processor_kwargs(media)
        part = next(iter(parts.values()))
        merge, block = part.merge_size, part.merge_size * part.patch_size
        ladders, frames, tops = [], [], []
        for one, (t, h, w) in zip(decoded, prompt.media["grid"].tolist(), strict=True):
            # The limits count all frames of a video.
            is_image = isinstance(one, DecodedImage)
            size = kinds["images_kwargs" if is_image else "videos_kwargs"]["size"]
            least, most = size["shortest_edge"], size["longest_edge"]
            shown = 1 if is_image else t * part.temporal_patch_size
            top = (w // merge, h // merge)
            ladders.append(ladder(one.size, top, block, -(-least // shown), most // shown))
            frames.append(t)
            tops.append(top)
        sizes = share_out(ladders, frames, tokens)
        if sizes is None:
            return None
        return [
            one if new == top else resized(one, (new[0] * block, new[1] * block))
            for one, new, top in zip(decoded, sizes, tops, strict=True)
        ]

    def positions(self, config: Any, prompt: Prompt) -> Tensor:
        """mRoPE: text advances all three axes; a medium spreads over (time, height, width).

        Whatever follows a medium starts after its largest position on any axis, as the models were
        trained and as vLLM has it. (transformers 5.19 looks at height and width only, which puts
        the text after a Qwen2.5-VL video at positions that the video's later frames already hold.)
        """
        import torch

        merge = config.vision_config.spatial_merge_size
        runs: list[Tensor] = []
        start, media = 0, iter(_grids(config, prompt))
        for kind, group in itertools.groupby(prompt.token_types.tolist()):
            left = len(list(group))
            while left:
                if kind == 0:
                    run = torch.arange(left).expand(3, -1) + start
                else:  # media may follow one another without a token between
                    (t, h, w), step = next(media)
                    axes = [
                        (torch.arange(t) * step).long(),
                        torch.arange(h // merge),
                        torch.arange(w // merge),
                    ]
                    run = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1) + start
                runs.append(run)
                left -= run.shape[1]
                start = int(run.max()) + 1
        return torch.cat(runs, dim=1)

    def transformers_errs(self, prompt: Prompt) -> str:
        if prompt.media is not None and "seconds" in prompt.media:
            return "transformers places the text after such a video where the video still is"
        return ""

    def part_of(self, parameter: str) -> str:
        """As of any family; published files have older names, without `model.` or the model's
        part: "visual.blocks.0...", "model.layers.0..."."""
        if parameter.startswith("visual."):
            return super().part_of(f"model.{parameter}")
        language = ("model.layers.", "model.embed_tokens.", "model.norm.")
        return "language" if parameter.startswith(language) else super().part_of(parameter)

    def media_token_ids(self, config: Any) -> tuple[int, ...]:
        return config.image_token_id, config.video_token_id

    def banned_token_ids(self, config: Any) -> tuple[int, ...]:
        marks = config.vision_start_token_id, config.vision_end_token_id
        return (*self.media_token_ids(config), *marks)

    def vision_blocks(self, hf: Any) -> Any:
        return hf.model.visual.blocks

    def attend_in_segments(self, hf: Any) -> None:
        from caprl_native.policy import vision_attention

        hf.model.visual.config._attn_implementation = vision_attention.NAME

    def read_blocks(self, config: Any) -> list[int]:
        vision = config.vision_config
        return [*getattr(vision, "deepstack_visual_indexes", []), vision.depth - 1]

    def vision_attention(self, config: Any) -> tuple[int, int, int, int]:
        vision = config.vision_config
        whole = getattr(vision, "fullatt_block_indexes", None)  # of Qwen2.5-VL
        blocks = vision.depth if whole is None else len(whole)
        window = (getattr(vision, "window_size", 0) // vision.patch_size) ** 2
        return vision.hidden_size, blocks, window, vision.spatial_merge_size**2

    def language_layers(self, hf: Any) -> nn.ModuleList:
        return hf.model.language_model.layers

    def dummy_media(self, config: Any, device: torch.device) -> dict[str, Tensor]:
        import torch

        vision = config.vision_config
        channels: int = getattr(vision, "in_channels", 0) or getattr(vision, "in_chans", 3)
        merge = vision.spatial_merge_size
        width = channels * vision.temporal_patch_size * vision.patch_size**2
        patches = torch.zeros(merge * merge, width, dtype=torch.uint8, device=device)
        grid = torch.tensor([[1, merge, merge]], device=device)
        norm = torch.tensor([0.0, 1.0], device=device)[None, :, None].expand(1, 2, channels)
        return {"patches": patches, "grid": grid, "norm": norm}

    def tower_input(self, media: dict[str, Tensor]) -> Sequence[Tensor]:
        return normalised(media).split(media["grid"].prod(1).tolist())

    def media_features(self, hf: Any, media: dict[str, Tensor]) -> MediaFeatures:
        visual = hf.model.visual
        patches = normalised(media).to(visual.dtype)
        out = visual(patches, grid_thw=media["grid"], return_dict=True)
        deepstack = tuple(getattr(out, "deepstack_features", None) or ())
        return MediaFeatures(out.pooler_output, deepstack)

    def language(
        self,
        hf: Any,
        embeds: Tensor,
        prefixes: Any,
        positions: Tensor,
        media_mask: Tensor,
        features: MediaFeatures | None,
    ) -> Tensor:
        extra: dict[str, Any] = {}
        if features is not None and features.deepstack:
            extra = {
                "visual_pos_masks": media_mask,
                "deepstack_visual_embeds": list(features.deepstack),
            }
        out = hf.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            prefixes=prefixes,
            use_cache=False,
            **extra,
        )
        return out.last_hidden_state


@dataclass(frozen=True)
class Pixels:
    """Makes the engine's media of a prompt's patches: `temporal` frames of `size` x `size` pixels,
    `merge` x `merge` patches in a block. `metadata`: of each medium that is a video; None: it is an
    image."""

    temporal: int
    size: int
    merge: int
    metadata: tuple[dict[str, Any] | None, ...]

    @classmethod
    def of(cls, processor: Any, metadata: Sequence[dict[str, Any] | None]) -> Pixels:
        """Of the image or video processor that makes the patches."""
        sizes = processor.temporal_patch_size, processor.patch_size, processor.merge_size
        return cls(*sizes, tuple(metadata))

    def are_kept(self, grids: Sequence[list[int]], sizes: Sequence[dict[str, int]]) -> bool:
        """Whether the engine's processor leaves these sizes as they are: it takes `shortest_edge`
        to `longest_edge` pixels of each medium, and no side above 200 times the other."""
        for (t, h, w), size, video in zip(grids, sizes, self.metadata, strict=True):
            frames = 1 if video is None else t * self.temporal
            pixels = frames * h * w * self.size**2
            fits = size["shortest_edge"] <= pixels <= size["longest_edge"]
            if not fits or max(h, w) > 200 * min(h, w):
                return False
        return True

    def __call__(self, media: dict[str, Tensor]) -> dict[str, Any]:
        """Images, or frames uint8 `[T, H, W, 3]` with their metadata, in vLLM's form."""
        from PIL import Image

        grids = media["grid"].tolist()
        parts = media["patches"].split([t * h * w for t, h, w in grids])
        frames = [self._frames(p, g) for p, g in zip(parts, grids, strict=True)]
        made: dict[str, Any] = {}
        for one, video in zip(frames, self.metadata, strict=True):
            if video is None:
                made.setdefault("image", []).append(Image.fromarray(one[0]))
            else:
                made.setdefault("video", []).append((one, video))
        return made

    def _frames(self, patches: Tensor, grid: list[int]) -> Any:
        t, h, w = grid
        m, size = self.merge, self.size
        blocks = patches.view(t, h // m, w // m, m, m, -1, self.temporal, size, size)
        frames = blocks.permute(0, 6, 1, 3, 7, 2, 4, 8, 5)
        return frames.reshape(t * self.temporal, h * size, w * size, -1).numpy()


def _processors(processor: Any) -> dict[str, Any]:
    return {"image": processor.image_processor, "video": processor.video_processor}


def _in_order(processor: Any, out: Any, videos: Sequence[bool]) -> dict[str, Tensor]:
    """`Prompt.media` of a processor's output, which has images and videos apart. `videos`: whether
    each medium of the prompt is one."""
    import torch

    kinds = ("video",) if all(videos) else ("image",) if not any(videos) else ("image", "video")
    suffix = {"image": "pixel_values", "video": "pixel_values_videos"}
    grids = {kind: out[f"{kind}_grid_thw"] for kind in kinds}
    norms = {kind: channel_norms(_processors(processor)[kind], len(grids[kind])) for kind in kinds}
    patches = {kind: out[suffix[kind]] for kind in kinds}
    if len(kinds) == 1:  # not copied: a long video's patches are 70 MiB
        (kind,) = kinds
        return {"patches": patches[kind], "grid": grids[kind], "norm": norms[kind]}
    pieces = {
        kind: iter(
            zip(
                patches[kind].split(grids[kind].prod(1).tolist()),
                grids[kind],
                norms[kind],
                strict=True,
            )
        )
        for kind in kinds
    }
    placed = [next(pieces["video" if video else "image"]) for video in videos]
    p, g, n = zip(*placed, strict=True)
    return {"patches": torch.cat(p), "grid": torch.stack(g), "norm": torch.stack(n)}


def channel_norms(processor: Any, count: int) -> Tensor:
    """`[count, 2, C]`: mean and deviation of pixels from 0 to 255, as the processor fuses them."""
    import torch

    if not (processor.do_rescale and processor.do_normalize):
        raise ValueError("it neither rescales nor normalises pixels, as its family's does")
    scale = 1.0 / processor.rescale_factor
    rows = [torch.tensor(row) * scale for row in (processor.image_mean, processor.image_std)]
    return torch.stack(rows).repeat(count, 1, 1)


def normalised(media: dict[str, Tensor]) -> Tensor:
    """The tower's input `[N, C * D]`, float32: the numbers that the processor would have made.

    Pixels stay uint8 until here, a quarter of it: in worker processes, in queues, between ranks.
    """
    patches, grid, norm = media["patches"], media["grid"], media["norm"]
    count, channels = len(patches), norm.shape[2]
    each = norm.repeat_interleave(grid.prod(1), dim=0, output_size=count)  # without a host sync
    mean, deviation = each[..., None].unbind(1)
    return patches.view(count, channels, -1).float().sub_(mean).div_(deviation).flatten(1)


def _grids(config: Any, prompt: Prompt) -> list[tuple[list[int], float]]:
    """Each medium's grid, and the positions that one step in time advances."""
    if prompt.media is None:
        return []
    seconds = prompt.media.get("seconds")  # of the videos
    per_second = getattr(config.vision_config, "tokens_per_second", 1)
    of_videos = None if seconds is None else iter(seconds.tolist())
    kinds, at = prompt.token_types[prompt.token_types != 0].tolist(), 0
    found: list[tuple[list[int], float]] = []
    for t, h, w in prompt.media["grid"].tolist():
        is_video = kinds[at] == VIDEO
        at += t * h * w // config.vision_config.spatial_merge_size**2
        if not is_video:
            found.append(([t, h, w], 1.0))
        elif of_videos is None:
            # Qwen3-VL writes a time stamp before each frame pair, a medium of its own.
            found += [([1, h, w], per_second * 1.0)] * t
        else:
            found.append(([t, h, w], per_second * next(of_videos)))
    return found


def qwen_parts(*projector: str) -> dict[str, tuple[str, ...]]:
    return {
        "vision": ("model.visual.",),
        "projector": tuple(f"model.visual.{p}." for p in projector),
        "language": ("model.language_model.", "lm_head."),
    }


QWEN3_VL_PARTS = qwen_parts("merger", "deepstack_merger_list")

FAMILIES.add("qwen3_vl", Qwen("qwen3_vl", QWEN3_VL_PARTS))
FAMILIES.add("qwen2_5_vl", Qwen("qwen2_5_vl", qwen_parts("merger")))
