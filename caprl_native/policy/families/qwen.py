"""Qwen2.5-VL and Qwen3-VL: one layout of modules, mRoPE with three axes.

`Prompt.media`: `patches` `[N, C]` float32 of all media, `grid` `[M, 3]` (time, height, width, in
patches), and of Qwen2.5-VL's videos `seconds` `[M]` between two grids in time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caprl_native.policy.families.base import FAMILIES, Family, MediaFeatures, Prompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from caprl_native.config.schema import MediaConfig
    from caprl_native.data.media import DecodedImage, DecodedVideo

VIDEO = 2  # in Prompt.token_types, as the processors have it; images are 1


@dataclass(frozen=True)
class Qwen(Family):
    """Both families' processors, positions and modules."""

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
            patches = out["pixel_values" if images else "pixel_values_videos"]
            grid = out["image_grid_thw" if images else "video_grid_thw"]
            prompt.media, prompt.num_patches = {"patches": patches, "grid": grid}, len(patches)
            if (seconds := out.get("second_per_grid_ts")) is not None:
                prompt.media["seconds"] = torch.from_numpy(np.asarray(seconds, dtype=np.float64))
        return prompt

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

    def language_layers(self, hf: Any) -> nn.ModuleList:
        return hf.model.language_model.layers

    def dummy_media(self, config: Any, device: torch.device) -> dict[str, Tensor]:
        import torch

        vision = config.vision_config
        channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
        merge = vision.spatial_merge_size
        width = channels * vision.temporal_patch_size * vision.patch_size**2
        grid = torch.tensor([[1, merge, merge]], device=device)
        return {"patches": torch.zeros(merge * merge, width, device=device), "grid": grid}

    def media_features(self, hf: Any, media: dict[str, Tensor]) -> MediaFeatures:
        visual = hf.model.visual
        patches = media["patches"].to(visual.dtype)
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


def _grids(config: Any, prompt: Prompt) -> list[tuple[list[int], float]]:
    """Each medium's grid, and the positions that one step in time advances."""
    if prompt.media is None:
        return []
    grids, seconds = prompt.media["grid"].tolist(), prompt.media.get("seconds")
    if not bool((prompt.token_types == VIDEO).any()):
        return [(grid, 1.0) for grid in grids]
    per_second = getattr(config.vision_config, "tokens_per_second", 1)
    if seconds is None:
        # Qwen3-VL writes a time stamp before each frame pair, so every pair is a medium of its own.
        return [([1, h, w], per_second * 1.0) for t, h, w in grids for _ in range(t)]
    return [(g, per_second * s) for g, s in zip(grids, seconds.tolist(), strict=True)]


def _parts(*projector: str) -> dict[str, tuple[str, ...]]:
    return {
        "vision": ("model.visual.",),
        "projector": tuple(f"model.visual.{p}." for p in projector),
        "language": ("model.language_model.", "lm_head."),
    }


FAMILIES.add("qwen3_vl", Qwen("qwen3_vl", _parts("merger", "deepstack_merger_list")))
FAMILIES.add("qwen2_5_vl", Qwen("qwen2_5_vl", _parts("merger")))
