"""What a model family is, and how one is found. Nothing here imports torch: a dry run reads it.

A family is one file: a subclass of `Family`, and `FAMILIES.add(model_type, TheFamily(...))`. It is
found by the `model_type` of a model directory's config.json. See qwen.py for one with a tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from caprl_native.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from caprl_native.config.media import MediaConfig
    from caprl_native.data.media import DecodedImage, DecodedVideo

PARTS = ("vision", "projector", "language")


@dataclass
class Prompt:
    """A prompt as the trainer scores it, and as the engine is given it.

    `ids`: `[P]`, media placeholders expanded; `token_types`: `[P]`, 0 at text, more where a feature
    of a medium stands. `media`: what the vision tower and the positions need, under names that only
    the family knows; those of several prompts are joined along their first axes. `num_patches`: how
    many patches the tower works on; `patch_pairs`: how many pairs of them are in one frame.
    `engine`: vLLM's form (text and decoded media); without the media where `pixels` makes them of
    `media`, so that they are not in memory twice. `reduced_from`: how many tokens it would have
    had, where its media were reduced to fit; else 0.
    """

    ids: Tensor
    token_types: Tensor
    media: dict[str, Tensor] | None = None
    num_patches: int = 0
    patch_pairs: int = 0
    engine: dict[str, Any] = field(default_factory=dict)
    pixels: Callable[[dict[str, Tensor]], dict[str, Any]] | None = None
    reduced_from: int = 0

    def for_engine(self) -> dict[str, Any]:
        """What vLLM is given: the chat as a text, and decoded media."""
        if self.pixels is None or self.media is None:
            return self.engine
        return self.engine | {"multi_modal_data": self.pixels(self.media)}

    def __len__(self) -> int:
        return self.ids.shape[0]


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
    """All that the trainer knows of one kind of model: the Hugging Face model is `hf`, its config
    `config`. `parts`: part -> prefixes of parameter names; the longest prefix wins."""

    model_type: str
    parts: Mapping[str, tuple[str, ...]]
    auto_class: ClassVar[str] = "AutoModelForImageTextToText"  # of transformers, which loads it
    mixes_media: ClassVar[bool] = False  # whether a prompt may have images and videos
    stores_otherwise: ClassVar[bool] = False  # checkpoints than `hf` holds it: see `as_stored`
    # Prefixes of the language part's names, and what a language model alone has in their place; the
    # longest wins. Empty: such a model is not put together from parts (init_vlm/).
    text_names: ClassVar[Mapping[str, str]] = {}

    @property
    def sees_media(self) -> bool:
        """Whether there is a vision tower."""
        return "vision" in self.parts

    def part_of(self, parameter: str) -> str:
        """The part (one of `PARTS`) that a parameter's name belongs to."""
        hits = [
            (len(p), part) for part, ps in self.parts.items() for p in ps if parameter.startswith(p)
        ]
        if not hits:
            raise ValueError(f"{self.model_type}: parameter {parameter!r} belongs to no known part")
        return max(hits)[1]

    # How a sample becomes a prompt.

    def load_processor(self, path: str) -> Any:
        """What `prepare` is given: it has a `tokenizer`, and renders chats as text."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(path)
        if processor.chat_template is None:  # older directories have it with the tokenizer alone
            processor.chat_template = processor.tokenizer.chat_template
        return processor

    def processor_kwargs(self, media: MediaConfig) -> dict[str, Any]:
        """Keyword arguments of the processor, the same in the trainer and the engine."""
        raise NotImplementedError

    def prepare(
        self,
        processor: Any,
        text: str,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
    ) -> Prompt:
        """The prompt of a rendered chat with its media, of one kind unless the family
        `mixes_media`; `engine` is filled in later.

        May raise anything: the sample is then skipped, with the reason.
        """
        raise NotImplementedError

    def reduce(
        self,
        processor: Any,
        prompt: Prompt,
        decoded: Sequence[DecodedImage | DecodedVideo],
        media: MediaConfig,
        tokens: int,
    ) -> list[DecodedImage | DecodedVideo] | None:
        """The media of a prompt, reduced no more than takes them to `tokens` pad tokens, at sizes
        that the processor leaves as they are. None where that cannot be."""
        return None

    # Where tokens stand, and which of them are not text.

    def positions(self, config: Any, prompt: Prompt) -> Tensor:
        """Positions `[axes, P]` of a prompt's tokens, for so many axes as `language` takes.

        A response goes on from the largest of them, on every axis.
        """
        raise NotImplementedError

    def transformers_errs(self, prompt: Prompt) -> str:
        """Why transformers places this prompt's tokens otherwise, and computes other log-probs;
        empty where it does not."""
        return ""

    def media_token_ids(self, config: Any) -> tuple[int, ...]:
        """The pad tokens that features replace."""
        return ()

    def banned_token_ids(self, config: Any) -> tuple[int, ...]:
        """Tokens that are never sampled: they stand for media."""
        return ()

    # What the model computes.

    def settle(self, config: Any, described: Mapping[str, Any]) -> None:
        """Puts right what transformers makes of the config.json that is `described`."""

    def check(self, hf: Any, path: str | Path) -> None:
        """Raises ModelError where this model computes something that the trainer does not."""

    def vision_blocks(self, hf: Any) -> Any:
        """The vision tower's blocks: FSDP units; empty where there is no tower.

        Those of a family with a tower are an `nn.ModuleList`, in which vision_cache.py replays;
        transformers' `GradientCheckpointingLayer`s are recomputed in the backward pass where asked.
        """
        return ()

    def attend_in_segments(self, hf: Any) -> None:
        """Makes vision_attention.py's the tower's attention, where that computes it: on CUDA."""

    def read_blocks(self, config: Any) -> list[int]:
        """The vision blocks whose outputs are read behind the tower."""
        return []

    def vision_attention(self, config: Any) -> tuple[int, int, int, int]:
        """For the arithmetic of an update: the tower's width; how many of its blocks see a whole
        frame; how many patches the others' windows have; patches that make one feature."""
        return 0, 0, 0, 1

    def patches_per_feature(self, config: Mapping[str, Any]) -> float:
        """How many patches the tower works on for one feature, by a directory's config.json."""
        vision = config.get("vision_config") or {}
        return float(vision.get("spatial_merge_size", 1) ** 2)

    def language_layers(self, hf: Any) -> nn.ModuleList:
        """The language model's layers: FSDP units, recomputed in the backward pass where asked."""
        raise NotImplementedError

    def routers(self, hf: Any) -> Sequence[nn.Module]:
        """What chooses experts for each token, a module per layer that has some."""
        return ()

    def experts(self, hf: Any) -> Sequence[nn.Module]:
        """All experts of a layer in one module, stacked along the first axis of each weight: FSDP
        units of their own. Empty where each token meets all weights."""
        return ()

    def active_share(self, config: Any) -> float:
        """Of the weights of `experts`, how much one token meets."""
        return 1.0

    def adapt(self, hf: Any) -> None:
        """Makes the model compute what the trainer wants otherwise than transformers has it."""

    def as_stored(self, name: str, weight: Tensor) -> Tensor:
        """A parameter as checkpoints, and so engines' loaders, have it; a view of `weight`."""
        return weight

    def stored_name(self, name: str) -> str:
        """A parameter's name in checkpoints, and for engines, where it `stores_otherwise`."""
        return name

    def dummy_media(self, config: Any, device: torch.device) -> dict[str, Tensor] | None:
        """The smallest legal `Prompt.media`; None where there is no tower.

        A rank whose micro-batch has no media runs the tower all the same: others' collectives wait.
        """
        return None

    def tower_input(self, media: dict[str, Tensor]) -> Sequence[Tensor]:
        """What the tower is given of each medium of `Prompt.media`, float32: the numbers that the
        model's processor makes of the same pixels."""
        raise NotImplementedError

    def media_features(self, hf: Any, media: dict[str, Tensor]) -> MediaFeatures:
        """The tower's and the projector's output for the media of a micro-batch."""
        raise NotImplementedError

    def language(
        self,
        hf: Any,
        embeds: Tensor,
        prefixes: Any,
        positions: Tensor,
        media_mask: Tensor,
        features: MediaFeatures | None,
    ) -> Tensor:
        """Final hidden states `[B, L, D]`.

        `embeds`: `[B, L, D]`, features in their places; `positions`: `[axes, B, L]`; `media_mask`:
        `[B, L]`, where those places are; `prefixes` goes to every attention call.
        """
        raise NotImplementedError


FAMILIES: Registry[Family] = Registry("model_type", "caprl_native.policy.families")
