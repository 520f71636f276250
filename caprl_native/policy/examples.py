"""Supervised samples -> rows: a prompt, the response to learn, and which tokens are scored."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.data.records import DataError
from caprl_native.policy.exchanges import (
    Asked,
    Exchanges,
    Render,
    TurnsChange,
    asked_of,
    scored_row,
)
from caprl_native.policy.families import family_of
from caprl_native.policy.model_check import loading
from caprl_native.policy.packing import PackedRow
from caprl_native.policy.prompt import (
    PromptBuilder,
    check_length,
    refuse_control_tokens,
    text_prompt,
)
from caprl_native.registry import load_plugin
from caprl_native.types import Sample

__all__ = ["ExampleBuilder", "chat_tokens", "scored_row"]

Decoded = list[DecodedImage | DecodedVideo]


@dataclass(frozen=True)
class ExampleBuilder:
    """Sample and decoded media -> `PackedRow`. Cheap to pickle; runs in loader workers.

    Learnt is with `loss_on` "response" the last answer, with "assistant" every one, each with its
    end-of-turn token; with "all" all text, too. A conversation of more than `max_tokens` ends at
    the last answer that fits (0: any length).

    Raises:
        DataError: a sample with media where the model reads text only.
        SampleSkipped: not even its first answer fits; or as PromptBuilder does.
    """

    worker_imports: ClassVar[tuple[str, ...]] = PromptBuilder.worker_imports

    prompts: PromptBuilder
    loss_on: str = "assistant"
    max_tokens: int = 0

    def __call__(self, sample: Sample, decoded: Decoded) -> PackedRow:
        tokenizer, sees_media = _loaded(self.prompts.path, self.prompts.plugins)
        refuse_control_tokens(tokenizer, sample.response or "", "response")
        if sample.media and not sees_media:
            raise DataError(
                f"{sample.source}: the sample has {sample.modality} media, and the model in "
                f"{self.prompts.path} reads text only; train a captioner, or leave the media out"
            )
        response = [*_ids(tokenizer, sample.response or ""), tokenizer.eos_token_id]
        parts = self._parts(sample, decoded, tokenizer, sees_media)
        chat = self._exchanges(parts, decoded, tokenizer, sees_media)
        count = chat.fitting(response, self.max_tokens) if self.max_tokens else len(parts)
        was_cut = count < len(parts)
        answer = chat.answers[count - 1] if was_cut else response
        parts, chat = parts[:count], chat.first(count)
        decoded = decoded[: sum(part.media for part in parts)]
        prompt = chat.whole()
        smaller = self.prompts.reduced(prompt, decoded)
        if smaller is not None:
            chat, length = self._exchanges(parts, smaller, tokenizer, sees_media), len(prompt)
            prompt = chat.whole()
            prompt.reduced_from = length
        check_length(prompt, self.prompts.max_tokens)
        turns = () if self.loss_on == "response" else chat.turns()
        return scored_row(prompt, answer, turns, self.loss_on, was_cut)

    def _parts(
        self, sample: Sample, decoded: Decoded, tokenizer: Any, sees_media: bool
    ) -> list[Asked]:
        """What is asked, answer by answer; all of it at once where the template takes back what it
        wrote, and nothing depends on where answers end."""
        messages = list(sample.messages)
        if sees_media:
            self.prompts.for_engine(sample, decoded)  # which refuses what no prompt may hold
            render = self._rendered(messages)
        else:
            for part in (part for m in messages for part in m["content"]):
                refuse_control_tokens(tokenizer, part["text"], "prompt")
            render = _renders(tokenizer, _plain(messages))
        try:
            return asked_of(messages, render, tokenizer.eos_token)
        except TurnsChange:
            if self.loss_on != "response" or self.max_tokens:
                raise
            return [Asked(render(len(messages), True), len(decoded))]

    def _rendered(self, messages: list[dict[str, Any]]) -> Render:
        return lambda count, opened: self.prompts.rendered(messages[:count], opened)

    def _exchanges(
        self, parts: Sequence[Asked], decoded: Decoded, tokenizer: Any, sees_media: bool
    ) -> Exchanges:
        """Their tokens; each part takes its own of the media."""
        asked, at = [], 0
        for number, part in enumerate(parts):
            own, at = decoded[at : at + part.media], at + part.media
            if sees_media and (own or not number):
                asked.append(self.prompts.prepared(part.text, own))
            else:
                asked.append(text_prompt(_ids(tokenizer, part.text)))
        return Exchanges(asked, [_ids(tokenizer, part.before) for part in parts[1:]])


def chat_tokens(tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """Tokens of a chat of texts that the assistant is to continue, and which of them it has spoken
    itself, ends of turns included. Raises `TurnsChange`."""
    parts = asked_of(messages, _renders(tokenizer, messages), tokenizer.eos_token)
    asked = [text_prompt(_ids(tokenizer, part.text)) for part in parts]
    chat = Exchanges(asked, [_ids(tokenizer, part.before) for part in parts[1:]])
    return chat.whole().ids.tolist(), chat.turns()


def _plain(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As templates of text models want them: strings."""
    return [{**m, "content": "".join(part["text"] for part in m["content"])} for m in messages]


def _renders(tokenizer: Any, messages: list[dict[str, Any]]) -> Render:
    return lambda count, opened: tokenizer.apply_chat_template(
        messages[:count], tokenize=False, add_generation_prompt=opened
    )


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@functools.lru_cache(maxsize=4)
def _loaded(path: str, plugins: tuple[str, ...]) -> tuple[Any, bool]:
    """The directory's tokenizer, and whether its model, which a plugin may define, sees media."""
    from transformers import AutoTokenizer

    for plugin in plugins:
        load_plugin(plugin)
    with loading(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(path), family_of(path, or_text=True).sees_media
