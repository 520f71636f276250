"""A conversation cut at its answers: where the assistant speaks, and where it may be cut short.

Each answer is tokenized apart from what opens its turn, as it is when an engine generates it. So a
conversation is a run of exchanges, what is asked (with its media) and what is answered, and their
tokens one after the other are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from caprl_native.data.loader import SampleSkipped
from caprl_native.policy.families import Prompt
from caprl_native.policy.packing import ASSISTANT, NOBODY, OTHERS, PackedRow, joined_media
from caprl_native.policy.prompt import text_prompt

Render = Callable[[int, bool], str]  # of the first so many messages, an answer's turn opened or not


class TurnsChange(SampleSkipped):
    """The chat template writes earlier turns otherwise than it opened them."""

    def __init__(self) -> None:
        super().__init__(
            "its chat template writes an earlier answer otherwise than the last one (without its "
            'thoughts, for example): only data.loss_on = "response" without data.max_tokens can '
            "learn from such conversations"
        )


@dataclass(frozen=True)
class Asked:
    """The text up to an answer, whose turn it opens, from the end of the answer before on.

    `media`: how many stand in it; `before`: the text of the answer before, end of turn included.
    """

    text: str
    media: int
    before: str = ""


def asked_of(messages: Sequence[dict[str, Any]], render: Render, end: str) -> list[Asked]:
    """The conversation in parts, the last of which opens the answer that is learnt.

    `end`: the text of the token that ends a turn; what the template writes behind it is asked.
    Raises `TurnsChange`.
    """
    whole, begin, before, media = render(len(messages), True), 0, "", 0
    found = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            parts = message["content"]  # or a text
            media += 0 if isinstance(parts, str) else sum(p["type"] != "text" for p in parts)
            continue
        head, said = render(i, True), render(i + 1, False)
        if not (whole.startswith(said) and said.startswith(head)):
            raise TurnsChange
        found.append(Asked(head[begin:], media, before))
        before, media = said[len(head) :], 0
        if (cut := before.rfind(end)) >= 0:
            before = before[: cut + len(end)]
        begin = len(head) + len(before)
    return [*found, Asked(whole[begin:], media, before)]


@dataclass(frozen=True)
class Exchanges:
    """Prompts of what is asked, and tokens of the answers: one answer less, the last is learnt."""

    asked: list[Prompt]
    answers: list[list[int]]

    def whole(self) -> Prompt:
        """All of it as one prompt, which opens the last answer."""
        if not self.answers:
            return self.asked[0]
        parts: list[Prompt] = []
        for asked, answer in zip(self.asked, [*self.answers, []], strict=True):
            parts += [asked, text_prompt(answer)] if answer else [asked]
        return joined(parts)

    def turns(self) -> list[bool]:
        """Of each token of `whole`, whether the assistant has spoken it."""
        found: list[bool] = []
        for asked, answer in zip(self.asked, [*self.answers, []], strict=True):
            found += [False] * len(asked) + [True] * len(answer)
        return found

    def fitting(self, response: Sequence[int], limit: int) -> int:
        """How many exchanges, `response` the last one's answer, have at most `limit` tokens.

        Raises `SampleSkipped` where the first has more.
        """
        total = kept = 0
        for asked, answer in zip(self.asked, [*self.answers, response], strict=True):
            total += len(asked) + len(answer)
            if total > limit:
                break
            kept += 1
        if not kept:
            raise SampleSkipped(
                f"its first answer ends at token {total}, data.max_tokens is {limit}"
            )
        return kept

    def first(self, count: int) -> Exchanges:
        """The first so many."""
        return Exchanges(self.asked[:count], self.answers[: count - 1])


def joined(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts one after the other as one: for the trainer, an engine is not given it."""
    return Prompt(
        torch.cat([p.ids for p in prompts]),
        torch.cat([p.token_types for p in prompts]),
        media=joined_media(prompts),
        num_patches=sum(p.num_patches for p in prompts),
        patch_pairs=sum(p.patch_pairs for p in prompts),
    )


def scored_row(
    prompt: Prompt,
    response: Sequence[int],
    turns: Sequence[bool],
    loss_on: str,
    was_cut: bool = False,
) -> PackedRow:
    """The row of an example; `turns`: which of the prompt's tokens the assistant has spoken and
    is to learn (may be empty). Media placeholders are never scored."""
    scored = torch.full_like(prompt.ids, OTHERS if loss_on == "all" else NOBODY)
    if turns:
        scored[torch.tensor(turns)] = ASSISTANT
    scored[prompt.token_types > 0] = NOBODY
    return PackedRow(prompt, [response], [0], scored, was_cut)
