"""Groups -> micro-batches: a prompt once, with as many of its responses as the budget allows.

A row of a micro-batch is `[prompt | r1 | ... | rk | padding]`. Every response sees the prompt and
itself, and its positions go on from the prompt's end, so the log-probs are those of k separate
sequences while the vision tower and the prompt are computed once.

Scored are the responses' tokens and, in supervised training, chosen tokens of the prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caprl_native.distributed.world import gather_objects
from caprl_native.policy.families import Prompt
from caprl_native.policy.prompt import text_prompt

PAD, PROMPT = -1, 0  # values of MicroBatch.segments; response k of a row is segment k >= 1
NOBODY, ASSISTANT, OTHERS = 0, 1, 2  # who speaks a token, in MicroBatch.speakers
SPEAKERS = 3


@dataclass
class PackedRow:
    """A prompt and some of its responses; `index` says which rollout of the batch each one is.

    `scored`: `[P]`, who speaks the tokens of the prompt that are scored, `NOBODY` at the others.
    `was_cut`: whether it is the beginning of a conversation that was longer than allowed.
    """

    prompt: Prompt
    responses: list[Sequence[int]]
    index: list[int]
    scored: Tensor | None = None
    was_cut: bool = False

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))

    @property
    def reduced_from(self) -> int:
        """As of its prompt."""
        return self.prompt.reduced_from


@dataclass
class MicroBatch:
    """What one forward pass takes. R responses with at most T tokens in B rows of L positions.

    Of the Q scored tokens, the first S are the responses', row by row; then come the prompts'. With
    `sequences` a row has no prompt: its responses are whole sequences, media included, of whose
    tokens some are scored (`side_by_side.py`).
    """

    ids: Tensor  # [B, L]
    positions: Tensor  # [axes, B, L], as many axes as the family's positions have
    segments: Tensor  # [B, L], PAD, PROMPT or the number of the response within its row
    media: list[Prompt]  # the prompts that have any, in row order
    inputs: dict[str, Tensor] | None  # `Prompt.media` of all of them, joined along the first axis
    prompts: Tensor  # [B] lengths of the prompts
    rows: Tensor  # [R] the row that each response stands in
    places: Tensor  # [S] flat positions of the response tokens
    sources: Tensor  # [Q] flat positions whose hidden states predict the scored tokens
    targets: Tensor  # [Q] the scored tokens
    speakers: Tensor  # [Q] ASSISTANT or OTHERS; NOBODY in a batch that is there for its collectives
    slots: Tensor  # [2, S] where each response token stands in a [R, T] table
    index: list[int]  # [R] which rollout of the batch each response is
    shape: tuple[int, int]  # (R, T)
    sequences: bool = False

    def table(self, values: Tensor) -> Tensor:
        """Values `[S]` of the response tokens as a table `[R, T]`, zero where there is no token."""
        return values.new_zeros(self.shape).index_put((self.slots[0], self.slots[1]), values)

    @property
    def mask(self) -> Tensor:
        """`[R, T]`, true at response tokens."""
        return self.table(torch.ones_like(self.places)).bool()

    def to(self, device: torch.device) -> MicroBatch:
        moved: dict[str, Any] = {
            k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        if self.inputs is not None:
            moved["inputs"] = {k: v.to(device) for k, v in self.inputs.items()}
        return dataclasses.replace(self, **moved)


def pack(rows: Sequence[PackedRow], budget: int) -> list[list[PackedRow]]:
    """Cuts rows into micro-batches of at most `budget` positions, padding included.

    A row that alone exceeds the budget is cut into its prompt with a part of its responses each
    (at least one). Rows of like length share a micro-batch; the order is otherwise kept.
    """
    pieces = [piece for row in rows for piece in _split(row, budget)]
    pieces.sort(key=len, reverse=True)
    batches: list[list[PackedRow]] = []
    for piece in pieces:
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(piece)
        else:
            batches.append([piece])
    return batches


def _split(row: PackedRow, budget: int) -> list[PackedRow]:
    """Few pieces, so that the prompt is repeated little: the longest response goes first, each into
    the first piece that has room for it."""
    if len(row) <= budget:
        return [row]
    pieces: list[PackedRow] = []
    for response, index in sorted(
        zip(row.responses, row.index, strict=True), key=lambda pair: -len(pair[0])
    ):
        room = (p for p in pieces if len(p) + len(response) <= budget)
        piece = next(room, None)
        if piece is None:
            scored = None if pieces else row.scored  # once, with the first piece
            pieces.append(piece := PackedRow(row.prompt, [], [], scored))
        piece.responses.append(response)
        piece.index.append(index)
    return pieces


def collate(rows: Sequence[PackedRow], positions_of: Callable[[Prompt], Tensor]) -> MicroBatch:
    """Lays rows out as a `MicroBatch`; `positions_of` gives a prompt's positions `[axes, P]`."""
    length = max(len(row) for row in rows)
    stands = [positions_of(row.prompt) for row in rows]
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(stands[0]), len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), PAD)
    for b, row in enumerate(rows):
        start = len(row.prompt)
        ids[b, :start], segments[b, :start] = row.prompt.ids, PROMPT
        positions[:, b, :start] = stands[b]
        first = int(stands[b].max()) + 1
        for k, response in enumerate(row.responses):
            own = slice(start, start + len(response))
            ids[b, own], segments[b, own] = torch.tensor(response), k + 1
            positions[:, b, own] = first + torch.arange(len(response))
            start = own.stop
    media = [row.prompt for row in rows if row.prompt.media is not None]
    return MicroBatch(
        ids=ids,
        positions=positions,
        segments=segments,
        media=media,
        inputs=joined_media(media),
        prompts=torch.tensor([len(row.prompt) for row in rows]),
        **_scored_tokens(rows, length),
    )


def _scored_tokens(rows: Sequence[PackedRow], length: int) -> dict[str, Any]:
    """Those fields of a `MicroBatch` of rows of this length that say where responses and scored
    tokens stand."""
    rows_of: list[int] = []
    index: list[int] = []
    places, sources, targets, slots = [], [], [], []
    for b, row in enumerate(rows):
        start = b * length + len(row.prompt)
        last = start - 1  # a token is predicted by the one before it; the first by the prompt's end
        for response, number in zip(row.responses, row.index, strict=True):
            n, at = len(response), torch.arange(len(response))
            places.append(start + at)
            sources.append(torch.tensor([last, *range(start, start + n - 1)]))
            targets.append(torch.tensor(response))
            slots.append(torch.stack([torch.full((n,), len(index)), at]))
            rows_of.append(b)
            index.append(number)
            start += n
    more = [_scored(row, b * length) for b, row in enumerate(rows) if row.scored is not None]
    speakers = [torch.full_like(t, ASSISTANT) for t in targets]
    return {
        "rows": torch.tensor(rows_of),
        "places": torch.cat(places),
        "sources": torch.cat([*sources, *(m[0] for m in more)]),
        "targets": torch.cat([*targets, *(m[1] for m in more)]),
        "speakers": torch.cat([*speakers, *(m[2] for m in more)]),
        "slots": torch.cat(slots, dim=1),
        "index": index,
        "shape": (len(index), max(len(t) for t in targets)),
    }


def _scored(row: PackedRow, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, targets and speakers of the prompt's scored tokens; nothing predicts the first."""
    assert row.scored is not None
    (at,) = row.scored[1:].nonzero(as_tuple=True)
    return offset + at, row.prompt.ids[at + 1], row.scored[at + 1]


def joined_media(prompts: Sequence[Prompt]) -> dict[str, Tensor] | None:
    """`Prompt.media` of several prompts together; None where none has any."""
    media = [prompt.media for prompt in prompts if prompt.media is not None]
    if len(media) < 2:
        return media[0] if media else None  # not copied: a long video's patches are 70 MiB
    names = dict.fromkeys(name for each in media for name in each)
    return {name: torch.cat([each[name] for each in media if name in each]) for name in names}


def micro_batches(
    rows: Sequence[PackedRow],
    budget: int,
    positions_of: Callable[[Prompt], Tensor],
    count: int | None = None,
) -> list[MicroBatch]:
    """Packed and laid out, as many on every rank, which the ranks' collectives in each forward pass
    need: a rank with less to do gets empty ones, in which `NOBODY` speaks.

    `count`: how many; None: the ranks ask one another (a collective).
    """
    batches = [collate(piece, positions_of) for piece in pack(rows, budget)]
    empty = collate([PackedRow(text_prompt([0]), [[0]], [0])], positions_of)
    empty.speakers.fill_(NOBODY)
    empty.index.clear()
    most = max(gather_objects(len(batches))) if count is None else count
    return batches + [empty] * (most - len(batches))
