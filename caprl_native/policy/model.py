"""The policy in training: a Hugging Face vision-language model, sharded, that scores responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from caprl_native.policy import attention
from caprl_native.policy.families import (
    Family,
    MediaFeatures,
    dummy_media,
    family_of,
    replace_embeddings,
)
from caprl_native.policy.logprobs import token_logprobs
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.packing import MicroBatch
from caprl_native.policy.prompt import Prompt
from caprl_native.policy.vision_cache import States, joined, recorded, replayed


class Policy(nn.Module):
    """Wraps the Hugging Face model `hf`; its forward gives the responses' log-probs.

    The forward runs the parts itself (vision tower, embedding, language layers, LM head on response
    positions only), so that one micro-batch makes exactly one pass through each sharded module.
    """

    def __init__(self, hf: nn.Module, family: Family, *, chunk: int = 1024) -> None:
        super().__init__()
        self.hf, self.family, self.chunk = hf, family, chunk
        hf.config.get_text_config()._attn_implementation = attention.NAME
        self._vision_cache: dict[int, States] = {}  # by a prompt's id(); 0: of the dummy

    @property
    def config(self) -> Any:
        return self.hf.config

    def positions(self, prompt: Prompt) -> Tensor:
        """Positions `[3, P]` of a prompt's tokens."""
        return self.family.positions(self.config, prompt)

    @property
    def banned(self) -> list[int]:
        """Token ids that are never sampled: they stand for media."""
        return sorted(set(self.family.banned_token_ids(self.config)))

    @property
    def tower_is_frozen(self) -> bool:
        """Whether the vision tower (its projector aside) cannot change."""
        named = self.hf.named_parameters()
        return not any(p.requires_grad for n, p in named if self.family.part_of(n) == "vision")

    @torch.no_grad()
    def cache_vision(self, prompts: Sequence[Prompt], num_passes: int) -> None:
        """Runs the frozen tower once over the media of these prompts (a collective).

        Forward passes use its outputs until `clear_vision_cache`, and can take these prompts only.
        `num_passes`: at least as many as prompts, the same number on every rank. Counts as a
        forward pass, for which FSDP gathers the weights.
        """
        blocks = self.family.vision_blocks(self.hf)
        wanted, device = self.family.read_blocks(self.config), next(self.parameters()).device
        dummy = dummy_media(self.config, device)
        for i in range(num_passes + 1):
            prompt = prompts[i - 1] if 0 < i <= len(prompts) else None
            patches, grid = dummy if prompt is None else (prompt.patches, prompt.grid)
            with recorded(blocks, wanted) as states:
                self.family.media_features(self.hf, patches.to(device), grid.to(device))
            self._vision_cache[0 if prompt is None else id(prompt)] = states

    def clear_vision_cache(self) -> None:
        """Drops what `cache_vision` kept."""
        self._vision_cache.clear()

    def forward(self, batch: MicroBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the response tokens, each `[S]`, nats, float32."""
        device = batch.ids.device
        features = self._features(batch)
        embeds = self.hf.get_input_embeddings()(batch.ids)
        token_ids = torch.tensor(self.family.media_token_ids(self.config), device=device)
        media_mask = torch.isin(batch.ids, token_ids) & (batch.segments == 0)
        if batch.patches is None:
            # No media here, but the gradient's collectives must run: a zero that depends on them.
            embeds = embeds + 0.0 * sum(f.sum() for f in (features.embeds, *features.deepstack))
            features = type(features)(features.embeds[:0], ())
        embeds = replace_embeddings(embeds, media_mask, features.embeds)
        hidden = self.family.language(
            self.hf, embeds, attention.prepare(batch), batch.positions, media_mask, features
        )
        return token_logprobs(
            # Unlike that of an index, its backward pass adds in one order: the first tokens of all
            # responses come from one position.
            embedding(batch.sources, hidden.flatten(0, 1)),
            self.hf.get_output_embeddings().weight,
            batch.targets,
            banned=self.banned,
            temperature=temperature,
            chunk=self.chunk,
        )

    def _features(self, batch: MicroBatch) -> MediaFeatures:
        """Those of the batch's media, or of a dummy: other ranks' collectives wait for the tower,
        and for the projector's gradient."""
        device = batch.ids.device
        patches, grid = batch.patches, batch.grid
        if patches is None:
            patches, grid = dummy_media(self.config, device)
        if not self._vision_cache:
            return self.family.media_features(self.hf, patches, grid)
        states = joined(
            [self._vision_cache[id(p)] for p in batch.media] or [self._vision_cache[0]], device
        )
        with replayed(self.family.vision_blocks(self.hf), states):
            return self.family.media_features(self.hf, patches, grid)


def load_hf(path: str | Path, *, empty: bool = False) -> nn.Module:
    """A model directory's model in float32; `empty`: its shapes alone, on the meta device."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    family_of(path)
    kwargs = {"attn_implementation": "sdpa", "dtype": torch.float32}
    if empty:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(
                AutoConfig.from_pretrained(path), **kwargs
            )
    return load_whole(AutoModelForImageTextToText, path, **kwargs)


def load_whole(kind: Any, path: str | Path, **kwargs: Any) -> nn.Module:
    """`kind.from_pretrained`, which fills what a file lacks with noise and drops what it has more.

    Raises:
        ModelError: the file's tensors are not the model's; it names the first few.
    """
    model, info = kind.from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    told = {
        "missing_keys": "missing in the weights",
        "unexpected_keys": "of no use to this model",
        "mismatched_keys": "of another shape",
    }
    for key, meaning in told.items():
        names = sorted(n if isinstance(n, str) else str(n[0]) for n in info.get(key) or ())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(
                f"{path}: {meaning}, by its config.json: {', '.join(names[:3])}{more}; the weights "
                "are of another model, or were not written whole"
            )
    return model
