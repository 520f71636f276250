"""Is the result what it should be? Its parts are run beside those that they were taken from.

On the CPU in float32, one model in memory at a time; sources are rounded to the result's precision
first, so that nothing but a wrong tensor makes a difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caprl_native.init_vlm.request import Request
from caprl_native.policy.families import Family, family_of
from caprl_native.policy.fsdp import DTYPES
from caprl_native.policy.model import load_hf
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.vision_cache import recorded

TOKENS, SIDE = 32, 4  # of the probes: tokens of a text; features along each side of an image


@torch.no_grad()
def verify(request: Request, folder: Path) -> dict[str, float]:
    """Largest differences by what was compared; "projector": of the features behind it.

    Raises:
        ModelError: the result's text log-probs are not the language model's, its tower's outputs
            not the vision model's, or its projector is not as it was wished.
    """
    family = family_of(request.vision)
    ours = _run(family, folder, request.dtype)
    theirs = _run(family, request.vision, request.dtype)
    ids = _text(family, load_hf(request.vision, empty=True).config)
    logprobs = _logprobs(_loaded(request.language, request.dtype), ids)
    found = {
        "text_logprobs": _largest(ours[0], logprobs),
        "tower": max(_largest(a, b) for a, b in zip(ours[1], theirs[1], strict=True)),
        "projector": _largest(ours[2], theirs[2]),
    }
    wrong = [name for name in ("text_logprobs", "tower") if found[name] != 0.0]
    if (found["projector"] == 0.0) != (request.projector == "keep"):
        wrong.append("projector")
    if wrong:
        raise ModelError(f"the result is not what it should be: {found}, of which {wrong}")
    return found


def _run(family: Family, path: Path, dtype: str) -> tuple[Tensor, list[Tensor], Tensor]:
    """Of a vision-language model: log-probs of a text, outputs of the tower's blocks, features."""
    hf = _loaded(path, dtype)
    blocks = family.vision_blocks(hf)
    with recorded(blocks, range(len(blocks))) as states:
        features = family.media_features(hf, _media(family, hf.config))
    everything = torch.cat([features.embeds, *features.deepstack])
    return _logprobs(hf, _text(family, hf.config)), [states[i] for i in sorted(states)], everything


def _loaded(path: Path, dtype: str) -> Any:
    """In evaluation mode, its weights rounded to `dtype`."""
    hf = load_hf(path).eval()
    for parameter in hf.parameters():
        parameter.copy_(parameter.to(DTYPES[dtype]))
    return hf


def _text(family: Family, config: Any) -> Tensor:
    """`[1, T]` tokens that are spread over the vocabulary, those that stand for media aside."""
    size, marks = config.get_text_config().vocab_size, family.banned_token_ids(config)
    ids = range(0, size, max(1, size // TOKENS))
    return torch.tensor([[i for i in ids if i not in marks]])


def _logprobs(hf: Any, ids: Tensor) -> Tensor:
    """`[T, V]` of a text."""
    return hf(input_ids=ids).logits[0].float().log_softmax(-1)


def _media(family: Family, config: Any) -> dict[str, Tensor]:
    """An image of noise, `SIDE` x `SIDE` features."""
    media = dict(family.dummy_media(config, torch.device("cpu")) or {})
    grid = media["grid"] * torch.tensor([1, SIDE, SIDE])
    shape = (int(grid.prod()), media["patches"].shape[1])
    noise = torch.randint(256, shape, generator=torch.Generator().manual_seed(0))
    media |= {"grid": grid, "patches": noise.to(torch.uint8)}
    return media | {"norm": torch.tensor([127.5, 64.0])[None, :, None].expand_as(media["norm"])}


def _largest(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        raise ModelError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    return (a - b).abs().max().item()
