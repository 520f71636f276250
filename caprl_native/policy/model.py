"""The policy in training: a Hugging Face model, sharded, that scores responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from caprl_native.messages import shown
from caprl_native.policy import attention
from caprl_native.policy.families import FAMILIES, Family, MediaFeatures, Prompt, family_of
from caprl_native.policy.logprobs import TokenScores, token_logprobs
from caprl_native.policy.model_check import ModelError, loading, read_config
from caprl_native.policy.packing import PROMPT, MicroBatch
from caprl_native.policy.vision_cache import States, joined, recorded, replayed

if TYPE_CHECKING:
    from caprl_native.policy.lora import Adapter


class Policy(nn.Module):
    """Wraps the Hugging Face model `hf`; its forward gives the log-probs of the scored tokens.

    The forward runs the parts itself (vision tower, embedding, language layers, LM head on scored
    positions only), so that one micro-batch makes exactly one pass through each sharded module.
    """

    def __init__(self, hf: Any, family: Family, *, chunk: int = 1024) -> None:
        super().__init__()
        self.hf, self.family, self.chunk = hf, family, chunk
        self.adapter: Adapter | None = None  # see `add_adapter`
        hf.config.get_text_config()._attn_implementation = attention.NAME
        family.adapt(hf)
        self._vision_cache: dict[int, States] = {}  # by a prompt's id(); 0: of the dummy

    @property
    def config(self) -> Any:
        return self.hf.config

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The vision tower's blocks and the language model's layers."""
        family = self.family
        return *family.vision_blocks(self.hf), *family.language_layers(self.hf)

    def positions(self, prompt: Prompt) -> Tensor:
        """Positions `[axes, P]` of a prompt's tokens."""
        return self.family.positions(self.config, prompt)

    @property
    def banned(self) -> list[int]:
        """Token ids that are never sampled: they stand for media."""
        return sorted(set(self.family.banned_token_ids(self.config)))

    @property
    def tower_is_frozen(self) -> bool:
        """Whether there is a vision tower, and it (its projector aside) cannot change."""
        vision = [p for n, p in self.hf.named_parameters() if self.family.part_of(n) == "vision"]
        return bool(vision) and not any(p.requires_grad for p in vision)

    @torch.no_grad()
    def cache_vision(self, prompts: Sequence[Prompt], num_passes: int) -> None:
        """Runs the frozen tower once over the media of these prompts (a collective).

        Forward passes use its outputs until `clear_vision_cache`, and can take these prompts only.
        `num_passes`: at least as many as prompts, the same number on every rank. Counts as a
        forward pass, for which FSDP gathers the weights.
        """
        blocks = self.family.vision_blocks(self.hf)
        wanted, device = self.family.read_blocks(self.config), next(self.parameters()).device
        dummy = self.family.dummy_media(self.config, device)
        for i in range(num_passes + 1):
            prompt = prompts[i - 1] if 0 < i <= len(prompts) else None
            media = (dummy if prompt is None else prompt.media) or {}
            with recorded(blocks, wanted) as states:
                self.family.media_features(self.hf, {k: v.to(device) for k, v in media.items()})
            self._vision_cache[0 if prompt is None else id(prompt)] = states

    def clear_vision_cache(self) -> None:
        """Drops what `cache_vision` kept."""
        self._vision_cache.clear()

    def forward(
        self, batch: MicroBatch, temperature: float = 1.0, *, ban: bool = True
    ) -> TokenScores:
        """Log-probs and entropies of the scored tokens, and which are likeliest: each `[S]`.

        `ban`: tokens that stand for media have no probability, as in the engine's sampling.
        """
        embeds, media_mask, features = self._embeds(batch)
        hidden = self.family.language(
            self.hf, embeds, attention.prepare(batch), batch.positions, media_mask, features
        )
        return token_logprobs(
            # Unlike that of an index, its backward pass adds in one order: the first tokens of all
            # responses come from one position.
            embedding(batch.sources, hidden.flatten(0, 1)),
            self.hf.get_output_embeddings().weight,
            batch.targets,
            banned=self.banned if ban else (),
            temperature=temperature,
            chunk=self.chunk,
        )

    def _embeds(self, batch: MicroBatch) -> tuple[Tensor, Tensor, MediaFeatures | None]:
        """Embeddings `[B, L, D]` with features in the media's places, those places, and the rest
        of the features."""
        features = self._features(batch)
        pads = torch.tensor(self.family.media_token_ids(self.config), device=batch.ids.device)
        media_mask = torch.isin(batch.ids, pads)
        if not batch.sequences:
            media_mask &= batch.segments == PROMPT
        # A pad may have no row of the table: InternVL's <video> stands for the image's there.
        embeds = self.hf.get_input_embeddings()(batch.ids.masked_fill(media_mask, 0))
        if features is None:
            return embeds, media_mask, None
        if batch.inputs is None:
            # No media here, but the gradient's collectives must run: a zero that depends on them.
            embeds = embeds + 0.0 * sum(f.sum() for f in (features.embeds, *features.deepstack))
            features = MediaFeatures(features.embeds[:0])
        return replace_embeddings(embeds, media_mask, features.embeds), media_mask, features

    def _features(self, batch: MicroBatch) -> MediaFeatures | None:
        """Those of the batch's media, or of a dummy: other ranks' collectives wait for the tower,
        and for the projector's gradient. None where there is no tower."""
        device = batch.ids.device
        media = batch.inputs or self.family.dummy_media(self.config, device)
        if media is None:
            return None
        if not self._vision_cache:
            return self.family.media_features(self.hf, media)
        states = joined(
            [self._vision_cache[id(p)] for p in batch.media] or [self._vision_cache[0]], device
        )
        with replayed(self.family.vision_blocks(self.hf), states):
            return self.family.media_features(self.hf, media)


def replace_embeddings(embeds: Tensor, media_mask: Tensor, features: Tensor) -> Tensor:
    """Puts features `[N, D]` where `media_mask` `[B, L]` is set in embeds `[B, L, D]`, row by row.

    Raises:
        ValueError: the number of pad tokens is not the number of features.
    """
    wanted = int(media_mask.sum())
    if wanted != features.shape[0]:
        raise ValueError(f"{wanted} media tokens in the prompts, but {features.shape[0]} features")
    return embeds.masked_scatter(media_mask[..., None], features.to(embeds.dtype))


def load_hf(path: str | Path, *, empty: bool = False) -> nn.Module:
    """A model directory's model in float32; `empty`: its shapes alone, on the meta device.

    Raises:
        ModelError: its family is not registered, nor is it a causal language model whose every part
            the trainer computes.
    """
    import transformers

    family = family_of(path, or_text=True)
    auto_class = getattr(transformers, family.auto_class)
    known = family.model_type in transformers.CONFIG_MAPPING
    with loading(path, "config.json"):
        config = transformers.AutoConfig.from_pretrained(path) if known else None
    if type(config) not in auto_class._model_mapping:
        raise ModelError(
            f"{path}: model_type {shown(family.model_type)} is neither a family of captioners "
            f"({', '.join(FAMILIES)}) nor a causal language model"
        )
    family.settle(config, read_config(path))
    kwargs = {"attn_implementation": "sdpa", "dtype": torch.float32}
    if not empty:
        return load_whole(auto_class, path, config=config, **kwargs)
    with torch.device("meta"):
        hf = auto_class.from_config(config, **kwargs)
    family.check(hf, path)
    return hf


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
