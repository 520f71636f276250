"""Compiled functions stay compiled, in every thread, or fail."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from caprl_native.policy import attention, compiling, vision_attention
from caprl_native.policy.families import FAMILIES
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.testing.samples import prompt


def in_a_thread(work: Callable[[], object]) -> BaseException | None:
    """What `work` raises in a thread of its own, as a checkpoint's recomputation is."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


@pytest.fixture
def many_kinds():
    """Calls a function with inputs that each have to be compiled apart."""
    torch.compiler.reset()

    def call(function: Callable, kinds: int) -> None:
        for kind in range(kinds):
            function(torch.ones(3), "x" * kind)

    yield call
    torch.compiler.reset()


def test_beyond_the_limit_any_thread_fails_and_none_goes_on_uncompiled(monkeypatch, many_kinds):
    monkeypatch.setattr(compiling, "RECOMPILATIONS", 3)
    add = compiling.compiled(lambda x, text: x + len(text), backend="eager")
    assert in_a_thread(lambda: many_kinds(add, 3)) is None
    assert isinstance(in_a_thread(lambda: many_kinds(add, 9)), FailOnRecompileLimitHit)
    with pytest.raises(FailOnRecompileLimitHit):
        many_kinds(add, 9)


def test_other_threads_may_compile_as_often_as_the_first(many_kinds):
    """Not torch's own 8 times."""
    add = compiling.compiled(lambda x, text: x + len(text), backend="eager")
    assert in_a_thread(lambda: many_kinds(add, 20)) is None


def test_attention_is_compiled_in_this_way():
    assert attention._compiled.__wrapped__ is compiling.compiled


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl"])
def test_blocks_and_layers_are_traced_whole_and_compute_the_same(
    name, tiny_policy, tiny_policy_2_5, monkeypatch
):
    """The CUDA path, where attention is FlexAttention and `varlen_attn`; traced, not compiled: on a
    CPU flex has no backward pass, and something of the same shapes stands in for the kernel."""
    torch.compiler.reset()
    monkeypatch.setattr(attention, "prepare", attention.block_mask)
    monkeypatch.setattr(vision_attention, "varlen_attn", lambda q, k, v, *_: q * 0.5 + k * 0.2 + v)
    path = tiny_policy if name == "qwen3_vl" else tiny_policy_2_5
    policy = Policy(load_hf(path), FAMILIES[name].value).train()
    policy.family.attend_in_segments(policy.hf)
    made = [packed(path, kinds) for kinds in (["image"], ["image", "text"], ["video", "image"])]
    batches = [collate(rows, policy.positions) for rows in made]
    names = list(policy.state_dict())
    with torch.no_grad():
        theirs = [policy(batch).logprobs for batch in batches]
        torch._dynamo.utils.counters.clear()
        compiling.compile_blocks(policy.blocks, backend="aot_eager")
        ours = [policy(batch).logprobs for batch in batches]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]
    # One for the tower and one for the language model, and few for sizes of 1: not one a block.
    assert 2 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8
    assert list(policy.state_dict()) == names


def packed(path, kinds: list[str]) -> list[PackedRow]:
    rows = [(prompt(path, kind, i), [[5] * (4 + i), [6] * 3]) for i, kind in enumerate(kinds)]
    return [PackedRow(made, answers, [0, 1]) for made, answers in rows]
