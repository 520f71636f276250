"""Compiled functions stay compiled, in every thread, or fail."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from caprl_native.policy import attention, compiling


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
