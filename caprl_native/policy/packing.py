"""Groups -> micro-batches: a prompt once, with as many of its responses as the budget allows.

A row of a micro-batch is `[prompt | r1 | ... | rk | padding]`. Every response sees the prompt and
itself, and its positions go on from the prompt's end, so the log-probs are those of k separate
sequences while the vision tower and the prompt are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caprl_native.policy.prompt import Prompt

PAD, PROMPT = -1, 0  # values of MicroBatch.segments; response k of a row is segment k >= 1


@dataclass
class PackedRow:
    """A prompt and some of its responses; `index` says which rollout of the batch each one is."""

    prompt: Prompt
    responses: list[list[int]]
    index: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass
class MicroBatch:
    """What one forward pass takes. R responses with at most T tokens in B rows of L positions."""

    ids: Tensor  # [B, L]
    positions: Tensor  # [3, B, L]
    segments: Tensor  # [B, L], PAD, PROMPT or the number of the response within its row
    media: list[Prompt]  # the prompts that have any, in row order
    patches: Tensor | None  # [N, C] of all of them
    grid: Tensor | None  # [M, 3]
    prompts: Tensor  # [B] lengths of the prompts
    rows: Tensor  # [R] the row that each response stands in
    places: Tensor  # [S] flat positions of the response tokens
    sources: Tensor  # [S] flat positions whose hidden states predict the response tokens
    targets: Tensor  # [S] the response tokens
    slots: Tensor  # [2, S] where each of them stands in a [R, T] table
    index: list[int]  # [R] which rollout of the batch each response is
    shape: tuple[int, int]  # (R, T)

    def table(self, values: Tensor) -> Tensor:
        """Values `[S]` of the response tokens as a table `[R, T]`, zero where there is no token."""
        return values.new_zeros(self.shape).index_put((self.slots[0], self.slots[1]), values)

    @property
    def mask(self) -> Tensor:
        """`[R, T]`, true at response tokens."""
        return self.table(torch.ones_like(self.targets)).bool()

    def to(self, device: torch.device) -> MicroBatch:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return MicroBatch(**{**vars(self), **moved})


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
            pieces.append(piece := PackedRow(row.prompt, [], []))
        piece.responses.append(response)
        piece.index.append(index)
    return pieces


def collate(rows: Sequence[PackedRow], positions_of: Callable[[Prompt], Tensor]) -> MicroBatch:
    """Lays rows out as a `MicroBatch`; `positions_of` gives a prompt's positions `[3, P]`."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(3, len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), PAD)
    rows_of, places, sources, targets, slots, index = [], [], [], [], [], []
    for b, row in enumerate(rows):
        p = len(row.prompt)
        ids[b, :p] = row.prompt.ids
        positions[:, b, :p] = prompt_positions = positions_of(row.prompt)
        segments[b, :p] = PROMPT
        start, first = p, int(prompt_positions.max()) + 1
        for k, response in enumerate(row.responses):
            tokens, n = torch.tensor(response), len(response)
            ids[b, start : start + n] = tokens
            positions[:, b, start : start + n] = first + torch.arange(n)
            segments[b, start : start + n] = k + 1
            # A token is predicted by the one before it; the first one by the end of the prompt.
            rows_of.append(b)
            places.append(b * length + start + torch.arange(n))
            sources.append(b * length + torch.tensor([p - 1, *range(start, start + n - 1)]))
            targets.append(tokens)
            slots.append(torch.stack([torch.full((n,), len(index)), torch.arange(n)]))
            index.append(row.index[k])
            start += n
    media = [row.prompt for row in rows if row.prompt.patches is not None]
    return MicroBatch(
        ids=ids,
        positions=positions,
        segments=segments,
        media=media,
        patches=torch.cat([m.patches for m in media]) if media else None,
        grid=torch.cat([m.grid for m in media]) if media else None,
        prompts=torch.tensor([len(row.prompt) for row in rows]),
        rows=torch.tensor(rows_of),
        places=torch.cat(places),
        sources=torch.cat(sources),
        targets=torch.cat(targets),
        slots=torch.cat(slots, dim=1),
        index=index,
        shape=(len(index), max(len(t) for t in targets)),
    )
