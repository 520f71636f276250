"""No string hangs a scorer or breaks it; `tools/fuzz_scorers.py` tries ten thousand more."""

from __future__ import annotations

import ast
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import psutil
import pytest

import eval.scoring
from eval.benchmarks import benchmarks
from eval.items import ToJudge
from eval.scoring import symbolic
from eval.scoring.anls import anls, edit_distance
from eval.scoring.caprl_image import image_score
from eval.scoring.grounding import parse_spans
from eval.scoring.math_answer import math_equal
from eval.scoring.relaxed import relaxed_accuracy
from tests.eval.benchmark_files import EXAMPLES, read, write_files
from tools.fuzz_scorers import PIECES, calls, hostile, scorers, timed_call, timed_calls

LIMIT_S = 2.0
TOWERS = [
    "((x+1)^{20}+1)^{20}",
    "[((3**600)**100)**900]",
    "((3^{600})^{100})^{900}",
    "9^{9^{9^{9}}}",
    "(((((9!)!)!)!)!)",
    "(1+" * 15 + "1" + ")" * 15,
    "x_{" * 15 + "1" + "}" * 15,
    "\\sin(" * 12 + "x" + ")" * 12,
    "\\sqrt{" * 11 + "2" + "}" * 11,
    "1:2:3" * 30,
    "7" * 499,
    "[" * 400 + "]" * 400,
]
WRAPPED = "<think>x</think><answer>\\boxed{%s}</answer>"


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The process that compares mathematics starts with the first question."""
    symbolic.parse_latex("1")


def test_every_public_function_is_tried() -> None:
    found = scorers()
    assert len(found) > 60
    for name, function in found.items():
        calls(name, function, "some", "text")  # a new argument has to be made known there


def _seconds(again: Callable[[], object], first: float | None = None) -> float:
    """How long a call takes; of the processor's time where other processes hold it up."""
    if first is not None and first < LIMIT_S:
        return first
    symbolic._asked.cache_clear()
    start, spent = time.monotonic(), _processor_seconds()
    again()
    return min(time.monotonic() - start, _processor_seconds() - spent)


def _processor_seconds() -> float:
    """Of this process and of the one that does mathematics, with its workers, dead ones too."""
    spent = time.process_time()
    if keeper := symbolic._PROCESS._running:
        process = psutil.Process(keeper.pid)
        spent += sum(sum(each.cpu_times()[:4]) for each in (process, *process.children()))
    return spent


def _strings() -> Iterator[tuple[str, str]]:
    rng = random.Random(1)
    for text in islice(PIECES, 0, None, 5):
        yield text * (2000 // len(text)), rng.choice(PIECES)
    for _ in range(20):
        yield hostile(rng, longest=20_000), hostile(rng, longest=500)


def test_no_string_takes_long_or_breaks_a_scorer() -> None:
    for call in (call for strings in _strings() for call in timed_calls(*strings)):
        assert call.failure is None, (call.name, call.arguments)
        assert _seconds(partial(timed_call, *call[:2]), call.seconds) < LIMIT_S, call


@pytest.mark.parametrize("text", TOWERS, ids=lambda text: text[:24])
def test_mathematics_that_takes_for_ever_is_given_up(text: str) -> None:
    assert _seconds(lambda: image_score(WRAPPED % text, "42")) < LIMIT_S
    assert _seconds(lambda: math_equal(f"The answer is {text}", "42")) < LIMIT_S
    assert _seconds(lambda: relaxed_accuracy("42", text)) < LIMIT_S
    assert image_score(WRAPPED % text, "42") == 0.0
    assert not math_equal(f"The answer is {text}", "42") and not relaxed_accuracy("42", text)


def test_a_text_beyond_the_bounds_still_equals_itself() -> None:
    for text in TOWERS:
        assert image_score(WRAPPED % text, text) == 1.0


def test_the_process_is_replaced_when_it_is_killed_and_forgotten_by_forks() -> None:
    assert math_equal("1/2", "0.50")
    keeper = symbolic._PROCESS._running
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    keeper.wait()
    assert math_equal("3/4", "0.750") and symbolic._PROCESS._running is not keeper
    child = os.fork()
    if child == 0:
        os._exit(0 if math_equal("5/4", "1.250") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert math_equal("7/4", "1.750")


def test_a_busy_machine_does_not_change_an_answer() -> None:
    """The limit is processor time: while it gets none, no time of the question's passes."""
    assert math_equal("1/2", "0.50")
    assert symbolic._PROCESS._running is not None
    (worker,) = psutil.Process(symbolic._PROCESS._running.pid).children()
    worker.suspend()
    goes_on = threading.Timer(1.5, worker.resume)
    goes_on.start()
    assert math_equal("9/4", "2.250")
    goes_on.join()


def test_the_process_ends_with_its_parent() -> None:
    program = (
        "import os, signal; from eval.scoring import symbolic; symbolic.parse_latex('1');"
        "print(symbolic._PROCESS._running.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    keeper, until = int(ended.stdout), time.monotonic() + 20
    while os.path.exists(f"/proc/{keeper}") and _state(keeper) != "Z":
        assert time.monotonic() < until
        time.sleep(0.02)


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_no_reply_breaks_a_benchmark(name: str, tmp_path: Path) -> None:
    """Its own rule and the reference's, over replies of readers and of judges."""
    (item, *_), _ = read(name, write_files(tmp_path, name))
    benchmark, rng = benchmarks()[name], random.Random(name)
    replies = [*TOWERS[:3], *(WRAPPED % text for text in TOWERS[3:6])]
    replies += [hostile(rng, longest=20_000) for _ in range(12)]
    for reply in replies:
        for rule in benchmark.rules:
            assert _seconds(partial(benchmark.score, item, reply, rule)) < LIMIT_S, reply[:200]
            found = benchmark.score(item, reply, rule)
            assert isinstance(found, ToJudge) or 0.0 <= found.score <= benchmark.full
        if benchmark.judged_by_model:
            verdict = benchmark.judged(item, "x", reply)
            assert verdict is None or 0.0 <= verdict.score <= benchmark.full


def test_digits_and_long_texts_take_linear_time() -> None:
    start = time.process_time()
    for text in ("7" * 100_000, "7 " * 50_000, "7.7" * 30_000, "1 - " * 25_000):
        parse_spans(text)
    anls("x" * 19_000, ["y" * 19_000, "x" * 9_000, "z" * 1_000_000])
    assert time.process_time() - start < LIMIT_S


def test_the_edit_distance_is_that_of_the_table() -> None:
    rng = random.Random(0)
    for _ in range(300):
        left, right = ("".join(rng.choices("abc", k=rng.randrange(12))) for _ in range(2))
        row = list(range(len(right) + 1))
        for i, wanted in enumerate(left, 1):
            above, row[0] = row[0], i
            for j, given in enumerate(right, 1):
                above, row[j] = row[j], min(above + (wanted != given), row[j] + 1, row[j - 1] + 1)
        assert edit_distance(left, right) == row[-1]
    with pytest.raises(ValueError, match="not compared"):
        edit_distance("x" * 30_000, "y")


def test_rules_import_the_standard_library_and_words_that_the_trainer_shares() -> None:
    shared = {
        "caprl_native.text.answer_words",
        "caprl_native.text.plain_text",
        "caprl_native.text.thoughts",
    }
    for file in Path(eval.scoring.__path__[0]).glob("*.py"):
        allowed = {"_sympy_process": {"math_verify", "sympy"}, "stats": {"numpy"}}.get(file.stem)
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                known = name.partition(".")[0] in sys.stdlib_module_names | (allowed or set())
                assert known or name in shared or name.startswith("eval.scoring."), (file, name)
