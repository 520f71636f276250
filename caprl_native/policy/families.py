"""What differs between vision-language model families. Nothing else knows a family's name.

A family is one entry of `FAMILIES`, found by the `model_type` of a model directory's config. Its
functions take the Hugging Face model and say how media become features, where tokens stand in the
model's (multi-axis) position space, and which parameters belong to which part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caprl_native.messages import shown
from caprl_native.policy.model_check import ModelError, read_config


@dataclass(frozen=True)
class MediaFeatures:
    """The vision tower's output for a run of media: what replaces the pad tokens' embeddings.

    `embeds`: `[N, D]` for N pad tokens; `deepstack`: further `[N, D]` features that are added to
    the hidden states after the first language layers (empty for most families).
    """

    embeds: Tensor
    deepstack: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Family:
    model_type: str
    parts: dict[
        str, tuple[str, ...]
    ]  # part -> prefixes of parameter names; the longest prefix wins
    vision_blocks: Callable[[nn.Module], nn.ModuleList]
    read_blocks: Callable[[Any], list[int]]  # config -> vision blocks whose outputs are read
    language_layers: Callable[[nn.Module], nn.ModuleList]
    media_features: Callable[[nn.Module, Tensor, Tensor], MediaFeatures]
    positions: Callable[[Any, Any], Tensor]  # (config, Prompt) -> [3, P]
    language: Callable[
        ..., Tensor
    ]  # (model, embeds, prefixes, positions, media_mask, features) -> hidden
    media_token_ids: Callable[[Any], tuple[int, ...]]  # config -> pad tokens that features replace
    banned_token_ids: Callable[[Any], tuple[int, ...]]  # config -> tokens that are never sampled

    def part_of(self, parameter: str) -> str:
        """The part ("vision", "projector" or "language") that a parameter's name belongs to."""
        hits = [
            (len(p), part) for part, ps in self.parts.items() for p in ps if parameter.startswith(p)
        ]
        if not hits:
            raise ValueError(f"{self.model_type}: parameter {parameter!r} belongs to no known part")
        return max(hits)[1]


def _qwen_features(model: nn.Module, patches: Tensor, grid: Tensor) -> MediaFeatures:
    visual = model.model.visual
    out = visual(patches.to(visual.dtype), grid_thw=grid, return_dict=True)
    return MediaFeatures(out.pooler_output, tuple(getattr(out, "deepstack_features", None) or ()))


def _mrope_positions(config: Any, prompt: Any) -> Tensor:
    """mRoPE: text advances all three axes; a medium spreads over (time, height, width).

    Whatever follows a medium starts after its largest position on any axis, as the models were
    trained and as vLLM has it. (transformers 5.19 looks at height and width only, which puts the
    text after a Qwen2.5-VL video at positions that the video's later frames already hold.)
    """
    merge = config.vision_config.spatial_merge_size
    per_second = getattr(config.vision_config, "tokens_per_second", 1)
    grids = [] if prompt.grid is None else prompt.grid.tolist()
    if prompt.kind == "video" and prompt.seconds_per_grid is None:
        # Qwen3-VL writes a time stamp before each frame pair, so every pair is a medium of its own.
        grids = [[1, h, w] for t, h, w in grids for _ in range(t)]
    seconds = prompt.seconds_per_grid or [1.0] * len(grids)
    steps = [per_second * s if prompt.kind == "video" else 1.0 for s in seconds]
    runs: list[Tensor] = []
    start, media = 0, iter(zip(grids, steps, strict=True))
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


def _qwen_language(
    model: nn.Module,
    embeds: Tensor,
    prefixes: Any,
    positions: Tensor,
    media_mask: Tensor,
    features: MediaFeatures,
) -> Tensor:
    extra: dict[str, Any] = {}
    if features.deepstack:
        extra = {
            "visual_pos_masks": media_mask,
            "deepstack_visual_embeds": list(features.deepstack),
        }
    out = model.model.language_model(
        inputs_embeds=embeds, position_ids=positions, prefixes=prefixes, use_cache=False, **extra
    )
    return out.last_hidden_state


def _qwen(model_type: str, projector: tuple[str, ...]) -> Family:
    """Qwen2.5-VL and Qwen3-VL: one layout of modules, mRoPE with three axes."""
    return Family(
        model_type=model_type,
        parts={
            "vision": ("model.visual.",),
            "projector": tuple(f"model.visual.{p}." for p in projector),
            "language": ("model.language_model.", "lm_head."),
        },
        vision_blocks=lambda m: m.model.visual.blocks,
        read_blocks=lambda c: [
            *getattr(c.vision_config, "deepstack_visual_indexes", []),
            c.vision_config.depth - 1,
        ],
        language_layers=lambda m: m.model.language_model.layers,
        media_features=_qwen_features,
        positions=_mrope_positions,
        language=_qwen_language,
        media_token_ids=lambda c: (c.image_token_id, c.video_token_id),
        banned_token_ids=lambda c: (
            c.image_token_id,
            c.video_token_id,
            c.vision_start_token_id,
            c.vision_end_token_id,
        ),
    )


FAMILIES: dict[str, Family] = {
    f.model_type: f
    for f in (
        _qwen("qwen3_vl", projector=("merger", "deepstack_merger_list")),
        _qwen("qwen2_5_vl", projector=("merger",)),
    )
}


def family_of(path: str | Path) -> Family:
    """The family of a model directory.

    Raises:
        ModelError: there is no usable `config.json`, or its `model_type` is not registered.
    """
    model_type = read_config(path).get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        file = Path(path) / "config.json"
        raise ModelError(
            f"{file}: model_type {shown(model_type)} is not one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def replace_embeddings(embeds: Tensor, media_mask: Tensor, features: Tensor) -> Tensor:
    """Puts features `[N, D]` where `media_mask` `[B, L]` is set in embeds `[B, L, D]`, row by row.

    Raises:
        ValueError: the number of pad tokens is not the number of features.
    """
    wanted = int(media_mask.sum())
    if wanted != features.shape[0]:
        raise ValueError(f"{wanted} media tokens in the prompts, but {features.shape[0]} features")
    return embeds.masked_scatter(media_mask[..., None], features.to(embeds.dtype))


def dummy_media(config: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The smallest legal input of the vision tower: patches `[4, C]` and grid `[1, 3]`.

    A rank whose micro-batch has no media runs the tower all the same: the others' collectives wait.
    """
    vision = config.vision_config
    channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    merge = vision.spatial_merge_size
    width = channels * vision.temporal_patch_size * vision.patch_size**2
    grid = torch.tensor([[1, merge, merge]], device=device)
    return torch.zeros(merge * merge, width, device=device), grid
