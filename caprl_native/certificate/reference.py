"""What transformers' own processor and model make of a case: nothing of the trainer is in it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caprl_native.certificate.cases import Case, Media
from caprl_native.config.media import MediaConfig
from caprl_native.data.media import DecodedImage
from caprl_native.policy.families import Family

PIXELS = ("pixel_values", "pixel_values_videos")


@dataclass(frozen=True)
class Reference:
    """Of a prompt: token ids `[P]`; pixels, the tower's inputs by their names; positions
    `[axes, P]`; and the log-probs of each response's tokens, nats."""

    ids: Tensor
    pixels: dict[str, Tensor]
    positions: Tensor
    logprobs: Tensor


@torch.no_grad()
def reference(
    hf: Any,
    family: Family,
    processor: Any,
    text: str,
    case: Case,
    media: MediaConfig,
    responses: Sequence[Sequence[int]],
) -> Reference:
    """transformers' answers for a case; `text`: its chat, `hf`: the model, unwrapped."""
    inputs = processed(family, processor, text, case.decoded, media)
    pixels = {name: inputs[name] for name in PIXELS if name in inputs}
    with _seen_positions(hf) as seen:
        forward(hf, inputs, [])
    positions = seen[0]
    found = [scored(forward(hf, inputs, tokens), tokens) for tokens in responses]
    return Reference(inputs["input_ids"][0], pixels, positions, torch.cat(found))


def processed(
    family: Family, processor: Any, text: str, decoded: Media, media: MediaConfig
) -> Mapping[str, Any]:
    """The processor's output for a rendered chat, by transformers' own code alone."""
    options = family.processor_kwargs(media)
    inputs: dict[str, Any] = {"text": [text], "return_mm_token_type_ids": True}
    if images := [one.image for one in decoded if isinstance(one, DecodedImage)]:
        inputs["images"] = images
    if videos := [one for one in decoded if not isinstance(one, DecodedImage)]:
        inputs["videos"] = [video.frames for video in videos]
        options["videos_kwargs"]["video_metadata"] = [
            {k: v for k, v in video.metadata.items() if k != "do_sample_frames"} for video in videos
        ]
    found: Mapping[str, Any] = processor(**inputs, **options, return_tensors="pt")
    return found


def forward(hf: Any, inputs: Mapping[str, Any], response: Sequence[int]) -> Tensor:
    """Logits `[R + 1, V]` that predict the response's tokens and the one after them."""
    device = next(hf.parameters()).device
    tail = torch.tensor([list(response)], dtype=torch.long)
    known = inspect.signature(hf.forward).parameters
    given = {k: v for k, v in inputs.items() if k in known}
    given["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    if "mm_token_type_ids" in given:
        types = given["mm_token_type_ids"]
        given["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(tail)], dim=1)
    given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}
    prompt = inputs["input_ids"].shape[1]
    logits: Tensor = hf(**given, use_cache=False).logits[0, prompt - 1 :]
    return logits.float()


def scored(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    chosen = torch.tensor(list(tokens), device=logits.device)[:, None]
    return logits[: len(tokens)].log_softmax(-1).gather(1, chosen)[:, 0].cpu()


@contextmanager
def _seen_positions(hf: Any) -> Iterator[list[Tensor]]:
    """The positions `[axes, P]` that the language model's rotary embedding is given."""
    seen: list[Tensor] = []

    def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        seen.append((ids[:, 0] if ids.ndim == 3 else ids[:1]).cpu())

    rotary = [
        module
        for name, module in hf.named_modules()
        if name.endswith("rotary_emb") and "vis" not in name
    ]
    handles = [m.register_forward_pre_hook(look, with_kwargs=True) for m in rotary]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
