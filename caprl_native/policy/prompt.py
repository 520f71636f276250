"""Sample and decoded media -> the prompt, once, for trainer and engine alike."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from caprl_native.config.media import MediaConfig
from caprl_native.data.loader import SampleSkipped
from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.policy.families import Family, Prompt, family_of
from caprl_native.policy.model_check import loading
from caprl_native.registry import PLUGINS, load_plugin
from caprl_native.text.control_tokens import control_token_in
from caprl_native.types import Sample

_SYSTEM_TURN = re.compile(r"\A<\|im_start\|>system\n.*?<\|im_end\|>\n", re.DOTALL)


def processor_kwargs(path: str, media: MediaConfig) -> dict[str, Any]:
    """Keyword arguments of the directory's processor, the same in the trainer and the engine."""
    return family_of(path).processor_kwargs(media)


@functools.lru_cache(maxsize=4)
def _loaded(path: str, plugins: tuple[str, ...]) -> tuple[Family, Any]:
    """The directory's family, which one of these plugins may define, and processor."""
    for plugin in plugins:
        load_plugin(plugin)
    family = family_of(path)
    with loading(path, "tokenizer and processor"):
        return family, family.load_processor(path)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turns whatever a model's own code raises on an odd sample into a skip, with its reason."""
    try:
        yield
    except MemoryError:
        raise  # the machine's trouble, not the sample's
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
        raise SampleSkipped(f"the model's {what} refuses it ({reason})") from error


def refuse_control_tokens(tokenizer: Any, text: str, what: str) -> None:
    """Raises `SampleSkipped` for a text in which the tokenizer would see more than text."""
    if mark := control_token_in(tokenizer, text):
        raise SampleSkipped(
            f"the {what} contains {mark}, a mark of the model's own; remove it from the record"
            + (" (a medium's place is <image> or <video>)" if what == "prompt" else "")
        )


@dataclass(frozen=True)
class PromptBuilder:
    """Turns a sample and its decoded media into a `Prompt`. Cheap to pickle, for workers.

    Media that make the prompt longer than `max_tokens` are reduced with `media.fit` = "reduce": the
    pixels are those of trainer and engine alike, which get them from here.

    Raises `SampleSkipped` for a prompt that stays longer, media tokens counted, for one that
    spells the model's control tokens, and for whatever the model's processor refuses.
    """

    # What worker processes import once, before the first sample.
    worker_imports: ClassVar[tuple[str, ...]] = ("transformers", "torchvision.transforms.v2")

    path: str
    media: MediaConfig
    max_tokens: int = 0  # 0: any length
    plugins: tuple[str, ...] = field(default_factory=lambda: tuple(PLUGINS))  # workers import them

    def for_engine(
        self, sample: Sample, decoded: list[DecodedImage | DecodedVideo], **template: Any
    ) -> dict[str, Any]:
        """The prompt in vLLM's form: the chat as a text, media decoded. `template`: what the chat
        template is told beside the chat."""
        if len(decoded) > self.media.max_per_prompt:
            raise SampleSkipped(
                f"it has {len(decoded)} media, media.max_per_prompt is {self.media.max_per_prompt}"
            )
        family, processor = _loaded(self.path, self.plugins)
        for message in sample.messages:
            for part in message["content"]:
                refuse_control_tokens(processor.tokenizer, part.get("text", ""), "prompt")
        text = self.rendered(list(sample.messages), True, **template)
        images = [d.image for d in decoded if isinstance(d, DecodedImage)]
        videos = [(d.frames, d.metadata) for d in decoded if isinstance(d, DecodedVideo)]
        if images and videos and not family.mixes_media:
            raise SampleSkipped(
                f"it has both images and videos, and {family.model_type} takes one kind"
            )
        media = {kind: of for kind, of in {"image": images, "video": videos}.items() if of}
        return {"prompt": text, **({"multi_modal_data": media} if media else {})}

    def __call__(self, sample: Sample, decoded: list[DecodedImage | DecodedVideo]) -> Prompt:
        prompt = self._built(sample, decoded)
        smaller = self.reduced(prompt, decoded)
        if smaller is not None:
            length, prompt = len(prompt), self._built(sample, smaller)
            prompt.reduced_from = length
        check_length(prompt, self.max_tokens)
        return prompt

    def _built(self, sample: Sample, decoded: list[DecodedImage | DecodedVideo]) -> Prompt:
        engine = self.for_engine(sample, decoded)
        prompt = self.prepared(engine["prompt"], decoded)
        prompt.engine = {"prompt": engine["prompt"]} if prompt.pixels else engine
        return prompt

    def rendered(self, messages: list[dict[str, Any]], opened: bool, **template: Any) -> str:
        """A chat as a text; `opened`: with the beginning of the assistant's next turn."""
        _, processor = _loaded(self.path, self.plugins)
        with _refusals("chat template"):
            return processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=opened, **template
            )

    def prepared(self, text: str, decoded: list[DecodedImage | DecodedVideo]) -> Prompt:
        """A text with its media, as the trainer scores it."""
        family, processor = _loaded(self.path, self.plugins)
        with _refusals("processor"):
            return family.prepare(processor, text, decoded, self.media)

    def reduced(
        self, prompt: Prompt, decoded: list[DecodedImage | DecodedVideo]
    ) -> list[DecodedImage | DecodedVideo] | None:
        """The media of a prompt that is too long, so small that it is not; None where it is not too
        long, none can be so small, or none is to be."""
        too_long = self.max_tokens and len(prompt) > self.max_tokens
        if not too_long or prompt.media is None or self.media.fit != "reduce":
            return None
        family, processor = _loaded(self.path, self.plugins)
        room = self.max_tokens - int((prompt.token_types == 0).sum())
        with _refusals("processor"):
            return family.reduce(processor, prompt, decoded, self.media, room)


def without_system_turn(text: str) -> str:
    """A filled-in chat without the system turn that opens it, where there is one.

    Qwen2.5-VL's template writes one by itself. Turns are read as ChatML has them.
    """
    return _SYSTEM_TURN.sub("", text)


def check_length(prompt: Prompt, max_tokens: int) -> None:
    """Raises `SampleSkipped` for a prompt longer than `max_tokens` (0: any length is fine)."""
    if max_tokens and len(prompt) > max_tokens:
        raise SampleSkipped(
            f"the prompt has {len(prompt)} tokens, data.max_prompt_tokens is {max_tokens}"
        )


def text_prompt(ids: list[int]) -> Prompt:
    """A prompt of text alone."""
    tensor = torch.tensor(ids)
    return Prompt(tensor, torch.zeros_like(tensor), engine={"prompt_token_ids": ids})
