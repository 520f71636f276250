"""Supervised samples -> rows: a prompt, the response to learn, and which tokens are scored."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from caprl_native.data.media import DecodedImage, DecodedVideo
from caprl_native.data.records import DataError
from caprl_native.policy.families import Prompt, family_of
from caprl_native.policy.packing import ASSISTANT, NOBODY, OTHERS, PackedRow
from caprl_native.policy.prompt import (
    PromptBuilder,
    check_length,
    refuse_control_tokens,
    text_prompt,
)
from caprl_native.registry import load_plugin
from caprl_native.types import Sample


@dataclass(frozen=True)
class ExampleBuilder:
    """Sample and decoded media -> `PackedRow`. Cheap to pickle; runs in loader workers.

    The response is learnt, its end-of-turn token included; of a text-only model's prompt the
    assistant's earlier turns, too; with `loss_on` "all" all text of the prompt.

    Raises DataError for a sample with media where the model reads text only.
    """

    worker_imports: ClassVar[tuple[str, ...]] = PromptBuilder.worker_imports

    prompts: PromptBuilder
    loss_on: str = "response"

    def __call__(self, sample: Sample, decoded: list[DecodedImage | DecodedVideo]) -> PackedRow:
        tokenizer, sees_media = _loaded(self.prompts.path, self.prompts.plugins)
        refuse_control_tokens(tokenizer, sample.response or "", "response")
        response = tokenizer(sample.response, add_special_tokens=False).input_ids
        response.append(tokenizer.eos_token_id)
        if sees_media:
            return scored_row(self.prompts(sample, decoded), response, (), self.loss_on)
        if sample.media:
            raise DataError(
                f"{sample.source}: the sample has {sample.modality} media, and the model in "
                f"{self.prompts.path} reads text only; train a captioner, or leave the media out"
            )
        for part in (part for m in sample.messages for part in m["content"]):
            refuse_control_tokens(tokenizer, part["text"], "prompt")
        plain = [  # templates of text models want strings
            {**m, "content": "".join(part["text"] for part in m["content"])}
            for m in sample.messages
        ]
        ids, turns = chat_tokens(tokenizer, plain)
        prompt = text_prompt(ids)
        check_length(prompt, self.prompts.max_tokens)
        return scored_row(prompt, response, turns, self.loss_on)


def scored_row(
    prompt: Prompt, response: list[int], turns: Sequence[bool], loss_on: str
) -> PackedRow:
    """The row of an example; `turns`: which of the prompt's tokens the assistant has spoken (may
    be empty). Media placeholders are never scored."""
    scored = torch.full_like(prompt.ids, OTHERS if loss_on == "all" else NOBODY)
    if turns:
        scored[torch.tensor(turns)] = ASSISTANT
    scored[prompt.token_types > 0] = NOBODY
    return PackedRow(prompt, [response], [0], scored)


def chat_tokens(tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """Tokens of a chat that the assistant is to continue, and which of them it has spoken itself.

    What the assistant says is tokenized apart from what opens its turn, as it is when an engine
    generates it.
    """

    def render(count: int, opened: bool) -> str:
        return tokenizer.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=opened
        )

    cuts, end = [], 0  # texts with who speaks, in order
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            head, whole = render(i, True), render(i + 1, False)
            cuts += [(head[end:], False), (whole[len(head) :], True)]
            end = len(whole)
    cuts.append((render(len(messages), True)[end:], False))
    ids: list[int] = []
    turns: list[bool] = []
    for text, spoken in cuts:
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        ids += tokens
        turns += [spoken] * len(tokens)
    return ids, turns


@functools.lru_cache(maxsize=4)
def _loaded(path: str, plugins: tuple[str, ...]) -> tuple[Any, bool]:
    """The directory's tokenizer, and whether its model, which a plugin may define, sees media."""
    from transformers import AutoTokenizer

    for plugin in plugins:
        load_plugin(plugin)
    return AutoTokenizer.from_pretrained(path), family_of(path, or_text=True).sees_media
