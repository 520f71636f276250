"""The reward of memories: the golden rows; where one records a fault, what is right instead."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from caprl_native.rewards.judges.reply import Unreadable, read_judgement
from caprl_native.rewards.memory.replies import read_ranking
from caprl_native.rewards.memory.reward import Judged, group_rewards, rank_scores, think_penalty
from caprl_native.text.described import WrongForm, read_description
from caprl_native.text.faces import has_loose_faces
from caprl_native.text.thoughts import thought_span

GOLDEN = Path(__file__).parents[2] / "golden" / "rl"


def cases(table: str, kind: str = "") -> list:
    found = json.loads((GOLDEN / f"{table}.json").read_text())["cases"]
    return [pytest.param(c, id=c["id"]) for c in found if not kind or c["kind"] == kind]


@pytest.mark.parametrize("case", cases("m3_think_penalty"))
def test_thinking_costs_from_the_threshold_on(case: dict) -> None:
    given = case["input"]
    got = think_penalty(given["think_len"], given["threshold"], given["penalty"])
    assert got == pytest.approx(case["output"]["r_think"], abs=1e-12)


@dataclass
class Row:
    """A response of the table, read by our functions; `failed`: a judge said nothing readable."""

    judged: Judged
    failed: bool


def pieces_of(response: str) -> list[str]:
    """The table's toy tokens: the marks, and each other character."""
    pieces, rest = [], response
    while rest:
        mark = next((m for m in ("<think>", "</think>", "<|im_end|>") if rest.startswith(m)), "")
        pieces.append(mark or rest[0])
        rest = rest[len(pieces[-1]) :]
    return pieces


def number(reply: str | None, key: str) -> float | None:
    try:
        return read_judgement(reply or "", [key]).values[key]
    except Unreadable:
        return None


def row_of(response: str, correctness: str | None, label: str | None) -> Row:
    pieces = pieces_of(response)
    start, end = thought_span(pieces)
    try:
        description = read_description(response.replace("<|im_end|>", ""))
    except WrongForm:
        return Row(Judged(None), False)
    said = number(correctness, "correctness"), number(label, "label")
    loose = has_loose_faces(description)
    judged = Judged(description, loose, len(pieces) - end, end - start, *said)
    return Row(judged, None in said)


# What the reference takes for a description: a list, an object, a blank. They are other forms.
NO_DESCRIPTIONS = "g_parse_variants_2"
# "surface 5" names no face, and a label of "0" is a zero: the reference errs in both.
OTHER_VALIDITY = {("g_faces", 5): True, ("g_label_shapes", 0): False}


def rows_of(case: dict) -> list[Row]:
    given = case["input"]
    said = zip(given["responses"], given["correctness_judge"], given["label_judge"], strict=True)
    return [row_of(*one) for one in said]


@pytest.mark.parametrize("case", cases("m3_reward"))
def test_what_is_read_of_each_response(case: dict) -> None:
    p = SimpleNamespace(**case["params"])
    for i, (row, want) in enumerate(zip(rows_of(case), case["output"]["responses"], strict=True)):
        judged = row.judged
        if case["id"] == NO_DESCRIPTIONS or want["is_format_error"]:
            assert judged.description is None
        elif row.failed:  # also of a label of 2, which the reference takes for a good one
            assert want["fail_parsing"] == 2 or case["id"] == "g_label_shapes"
        else:
            assert (judged.description, judged.tokens, judged.think_tokens) == (
                want["description"],
                want["memory_token_len"],
                want["think_len"],
            )
            correct = OTHER_VALIDITY.get((case["id"], i), want["num_correct"] > 0)
            assert judged.is_correct(p) == correct


@pytest.mark.parametrize("case", cases("m3_reward"))
def test_rewards_of_a_group(case: dict) -> None:
    """Of rows without a fault; else the group has no reward, or its judge is asked again."""
    rows, p = rows_of(case), SimpleNamespace(**case["params"])
    group, want = [row.judged for row in rows], case["output"]["responses"]
    correct = [i for i, judged in enumerate(group) if judged.is_correct(p)]
    if any(row.failed for row in rows):
        assert case["kind"] == "judge"  # the reference gives 0, more than a wrong one has
        return
    reply = case["input"]["usefulness_ranking"]
    numbers = [int(n) for n in re.findall(r"\d+", reply) if int(n) <= len(correct)]
    if sorted(numbers) != list(range(1, len(correct) + 1)):
        with pytest.raises(Unreadable):  # the reference makes ranks up
            read_ranking(reply, len(correct))
        return
    scores = {correct[n - 1]: score for n, score in rank_scores(numbers).items()}
    for reward, theirs in zip(group_rewards(group, scores, p), want, strict=True):
        if case["id"] == NO_DESCRIPTIONS:
            assert reward.total == p.format_penalty
        elif "RANK" in reply:  # else the order of a text that is no ranking
            assert reward.total == pytest.approx(theirs["final_score"], abs=1e-6)
            assert reward.think == pytest.approx(theirs["r_think"], abs=1e-6)


@pytest.mark.parametrize(
    ("output", "memory"),
    [
        ('<think>a</think>```json\n{"description": "x"}\n```', "x"),
        ('a</think>\n\n``` {"description": "x"} ```\n', "x"),
        ('</think>{"description": "two\\nlines {} "}', "two\nlines {}"),
        ('</think>{"description": "two\nlines"}', None),
        ('{"description": "x"}', None),
        ('</think></think>{"description": "x"}', None),
        ('</think>{"description": "x </think>"}', None),
        ('</think>{"description": "x", "description": "y"}', None),
        ('</think>[{"description": "x"}]', None),
        ('</think>[["description", "x"]]', None),
        ('</think>{"description": "\\ud800"}', None),
        ("</think>" + "[" * 100_000, None),
    ],
)
def test_the_form_of_an_output(output: str, memory: str | None) -> None:
    if memory is not None:
        assert read_description(output) == memory
        return
    with pytest.raises(WrongForm):
        read_description(output)


@pytest.mark.parametrize(
    ("reply", "order"),
    [
        ("[RANK START]\n[2, 1, 3]\n[RANK END]", [1, 0, 2]),
        ("[RANK START][1,2,3][RANK END] no: [RANK START][3,2,1][RANK END]", [2, 1, 0]),
        ("<think>[RANK START][1,2,3][RANK END]</think>[RANK START][3,2,1][RANK END]", [2, 1, 0]),
        ("[RANK START][1, 2][RANK END]", None),
        ("[RANK START][1, 2, 2][RANK END]", None),
        ("[RANK START][1, 2, 3, 3][RANK END]", None),
        ("[RANK START][1, 2, 3.0][RANK END]", None),
        ("[RANK START][true, 2, 3][RANK END]", None),
        ("[RANK START][0, 1, 2][RANK END]", None),
        ("I think 2, 1, 3", None),
        ("[RANK START]{}[RANK END]", None),
    ],
)
def test_a_ranking_is_a_permutation_or_none(reply: str, order: list[int] | None) -> None:
    if order is not None:
        assert read_ranking(reply, 3) == order
        return
    with pytest.raises(Unreadable):
        read_ranking(reply, 3)
