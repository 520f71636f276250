"""Rows, cuts and masks: every response once, within the budget, blind to the others."""

import pytest
import torch

from caprl_native.policy.packing import PAD, PROMPT, PackedRow, collate, pack
from caprl_native.policy.prompt import text_prompt


def rows(lengths: list[tuple[int, list[int]]]) -> list[PackedRow]:
    made, first = [], 0
    for prompt, answers in lengths:
        index = list(range(first, first + len(answers)))
        tokens = [[100 + i] * n for i, n in zip(index, answers, strict=True)]
        made.append(PackedRow(text_prompt([1] * prompt), tokens, index))
        first += len(answers)
    return made


def positions(prompt) -> torch.Tensor:
    return torch.arange(len(prompt)).expand(3, -1)


LENGTHS = [(10, [3, 5, 2, 4]), (30, [1, 1, 9]), (4, [20]), (10, [2, 2])]


@pytest.mark.parametrize("budget", [1, 16, 40, 45, 100, 10_000])
def test_every_response_is_in_exactly_one_micro_batch_within_the_budget(budget):
    given = rows(LENGTHS)
    batches = pack(given, budget)
    answers = {i: r for row in given for i, r in zip(row.index, row.responses, strict=True)}
    seen = {}
    for pieces in batches:
        for piece in pieces:
            assert piece.responses and len(piece.responses) == len(piece.index)
            seen |= dict(zip(piece.index, piece.responses, strict=True))
        padded = max(len(p) for p in pieces) * len(pieces)
        # A prompt with a single response cannot be cut further, whatever the budget.
        assert padded <= budget or (len(pieces) == 1 and len(pieces[0].responses) == 1)
    assert seen == answers
    assert sum(len(p.responses) for b in batches for p in b) == len(answers)


def test_a_group_is_cut_into_few_pieces():
    """In their order the five responses would take three pieces."""
    (row,) = rows([(10, [6, 5, 4, 3, 2])])
    assert sorted(sum(map(len, p.responses)) for (p,) in pack([row], 20)) == [10, 10]


def test_a_large_budget_keeps_groups_whole():
    (batch,) = pack(rows(LENGTHS), 10_000)
    assert sorted(len(row.responses) for row in batch) == [1, 2, 3, 4]


def test_layout_of_a_micro_batch():
    batch = collate(rows([(3, [2, 1]), (2, [1])]), positions)
    assert batch.segments.tolist() == [
        [PROMPT, PROMPT, PROMPT, 1, 1, 2],
        [PROMPT, PROMPT, 1, PAD, PAD, PAD],
    ]
    assert batch.positions[0, 0].tolist() == [0, 1, 2, 3, 4, 3]  # both go on from the prompt
    assert batch.sources.tolist() == [2, 3, 2, 6 + 1]  # a first token is predicted by the prompt
    assert batch.targets.tolist() == [100, 100, 101, 102]
    assert batch.table(torch.tensor([1.0, 2, 3, 4])).tolist() == [[1, 2], [3, 0], [4, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False], [True, False]]
    assert batch.index == [0, 1, 2]
