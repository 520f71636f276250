"""Supervised rows -> micro-batches of whole sequences side by side, without padding.

A micro-batch is one row `[s1 | s2 | ... | sk]`. A sequence is a prompt with its one response; it
sees itself alone, and its positions are those that it has by itself. To the attention it is a
response without a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from caprl_native.distributed.world import gather_objects
from caprl_native.policy.families import Prompt
from caprl_native.policy.packing import ASSISTANT, NOBODY, MicroBatch, PackedRow, joined_media
from caprl_native.policy.prompt import text_prompt

Positions = Callable[[Prompt], Tensor]  # of a prompt's tokens, `[axes, P]`


def sequence_batches(
    rows: Sequence[PackedRow], budget: int, positions_of: Positions
) -> list[MicroBatch]:
    """Micro-batches of at most `budget` tokens (one longer row is alone), as many on every rank,
    which the ranks' collectives need: in those that fill up `NOBODY` speaks (a collective)."""
    batches = [lay_out(part, positions_of) for part in shared_out(rows, budget)]
    filler = lay_out([PackedRow(text_prompt([0]), [[0]], [0])], positions_of)
    filler.speakers.fill_(NOBODY)
    return batches + [filler] * (max(gather_objects(len(batches))) - len(batches))


def shared_out(rows: Sequence[PackedRow], budget: int) -> list[list[PackedRow]]:
    """The longest first, each to the one before it while there is room: rows of like length share
    a micro-batch."""
    parts: list[list[PackedRow]] = []
    used = 0
    for row in sorted(rows, key=len, reverse=True):
        if parts and used + len(row) <= budget:
            parts[-1].append(row)
            used += len(row)
        else:
            parts.append([row])
            used = len(row)
    return parts


def lay_out(rows: Sequence[PackedRow], positions_of: Positions) -> MicroBatch:
    """One micro-batch of these rows, in their order."""
    pieces = [_sequence(row, positions_of) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    starts = lengths.cumsum(0) - lengths
    number = torch.arange(len(rows)).repeat_interleave(lengths)
    place = torch.arange(int(lengths.sum()))
    ids, speakers = (torch.cat([p[name] for p in pieces]) for name in ("ids", "speakers"))
    speakers[starts] = NOBODY  # nothing predicts a sequence's first token
    (at,) = speakers.nonzero(as_tuple=True)
    media = [row.prompt for row in rows if row.prompt.media is not None]
    return MicroBatch(
        ids=ids[None],
        positions=torch.cat([p["positions"] for p in pieces], dim=1)[:, None],
        segments=number[None] + 1,
        media=media,
        inputs=joined_media(media),
        prompts=torch.zeros(1, dtype=torch.long),
        rows=torch.zeros(len(rows), dtype=torch.long),
        places=place,
        sources=at - 1,
        targets=ids[at],
        speakers=speakers[at],
        slots=torch.stack([number, place - starts[number]]),
        index=list(range(len(rows))),
        shape=(len(rows), int(lengths.max())),
        sequences=True,
    )


def _sequence(row: PackedRow, positions_of: Positions) -> dict[str, Any]:
    """Tokens `[P + R]`, who speaks those that are scored, and positions `[axes, P + R]`."""
    (response,), prompt = row.responses, row.prompt
    own = positions_of(prompt)
    after = int(own.max()) + 1 + torch.arange(len(response)).expand(len(own), -1)
    scored = torch.full_like(prompt.ids, NOBODY) if row.scored is None else row.scored
    answer = torch.tensor(response)
    return {
        "ids": torch.cat([prompt.ids, answer]),
        "speakers": torch.cat([scored, torch.full_like(answer, ASSISTANT)]),
        "positions": torch.cat([own, after], dim=1),
    }
