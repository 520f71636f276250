"""The policy in training: a Hugging Face vision-language model, sharded, that scores responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caprl_native.policy import attention
from caprl_native.policy.families import Family, dummy_media, family_of, replace_embeddings
from caprl_native.policy.logprobs import token_logprobs
from caprl_native.policy.packing import MicroBatch
from caprl_native.policy.prompt import Prompt


class Policy(nn.Module):
    """Wraps the Hugging Face model `hf`; its forward gives the responses' log-probs.

    The forward runs the parts itself (vision tower, embedding, language layers, LM head on response
    positions only), so that one micro-batch makes exactly one pass through each sharded module.
    """

    def __init__(self, hf: nn.Module, family: Family, *, chunk: int = 1024) -> None:
        super().__init__()
        self.hf, self.family, self.chunk = hf, family, chunk
        hf.config.get_text_config()._attn_implementation = attention.NAME

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

    def forward(self, batch: MicroBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the response tokens, each `[S]`, nats, float32."""
        device = batch.ids.device
        patches, grid = batch.patches, batch.grid
        if patches is None:
            patches, grid = dummy_media(self.config, device)
        features = self.family.media_features(self.hf, patches, grid)
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
            hidden.flatten(0, 1)[batch.sources],
            self.hf.get_output_embeddings().weight,
            batch.targets,
            banned=self.banned,
            temperature=temperature,
            chunk=self.chunk,
        )


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
    return AutoModelForImageTextToText.from_pretrained(path, **kwargs)
