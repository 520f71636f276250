"""Thoughts in every family's marks: what was said outside them, and thoughts that were cut off."""

from __future__ import annotations

import time

import pytest

from caprl_native.text.thoughts import Said, said, thought_span, without_thoughts
from eval.scoring.letters import choice_letter
from eval.scoring.math_answer import final_answer

PAIRS = [
    ("<think>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ('<thinking effort="high">', "</thinking>"),
    ("<thought_process>", "</thought_process>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|think_start|>", "<|think_end|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS, ids=lambda mark: mark.strip())
def test_what_is_said_is_what_stands_outside(opening: str, closing: str) -> None:
    thought = "The answer is A. \\boxed{A} <answer>A</answer> or rather"
    assert said(f"{opening}{thought}{closing}B") == Said("B", False)
    assert said(f"{thought}{closing}B") == Said("B", False)  # the prompt had opened it
    assert said(f"{opening}{thought}") == Said("", True)
    assert said(f"{opening}{closing}B") == Said("B", False)
    twice = f"{opening}{thought}{closing} B {opening}{thought}{closing} or not"
    assert without_thoughts(twice).split() == ["B", "or", "not"]
    for output, letter in ((f"{opening}{thought}{closing}\nB", "B"), (opening + thought, None)):
        assert choice_letter(output, "ABCD") == letter
        assert final_answer(output) == (letter or "")


@pytest.mark.parametrize(
    ("output", "want"),
    [
        ("<think>a <think> b</think> B", " B"),
        ("<think>a</think> c</think>B", "B"),
        ("<think>a</thinking>B", "B"),
        ("<think>as [THINK] says</think>B", "B"),
        ("analysisThe user asks. A?assistantfinalB", "B"),
        ("B<|end|>", "B"),
        (
            "<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>B<|end_of_solution|>",
            "B",
        ),
        ("A <thinker> is shown", "A <thinker> is shown"),
        ("[thinking] a man smiles", "[thinking] a man smiles"),
        ("analysis of the picture", "analysis of the picture"),
        ("", ""),
    ],
)
def test_marks_that_are_mixed_quoted_or_none(output: str, want: str) -> None:
    assert said(output) == Said(want, False)


@pytest.mark.parametrize(
    "mark", ["<", "<think>", "</think>", "[THINK][/THINK]", "<|channel|>", "<think "]
)
def test_time_is_linear(mark: str) -> None:
    start = time.process_time()
    said(mark * (1_000_000 // len(mark)))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("pieces", "thought"),
    [
        (["<think>", "a", "b", "</think>", "{", "}"], ["a", "b"]),
        (["a", "b", "</think>", "c"], ["a", "b"]),  # the prompt opened it
        (["x", "<think>", "a", "</think>", "c"], ["a"]),
        (["<th", "ink>", "a", "</", "think", ">", "c"], ["a"]),  # marks of several tokens
        (["<think>", "a", "<think>", "b", "</think>"], ["a", "<think>", "b"]),
        (["<think>", "a", "b"], ["a", "b"]),  # never closed
        (["<think>", "</think>", "c"], []),
        (["a", "b"], []),
        ([], []),
    ],
)
def test_which_tokens_are_thought(pieces: list[str], thought: list[str]) -> None:
    start, end = thought_span(pieces)
    assert pieces[start:end] == thought
