"""Copies of a model as Ray actors, which are killed; a scripted model stands for the engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import psutil
import pytest

from caprl_native.inference.backlog import CRASH
from caprl_native.inference.ray_cluster import NoReplica
from caprl_native.inference.replicas import ReplicatedModel
from tests.inference.scripted_model import ScriptedModel, never_loads, request, said
from tests.ranks import ROOT


@pytest.fixture(scope="module", autouse=True)
def ray_ends() -> Iterator[None]:
    """Ray starts with the first model, once for all tests of this file."""
    yield
    import ray

    ray.shutdown()


def actors() -> list[int]:
    """Process ids of the copies."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::_Worker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def name_of(process: psutil.Process) -> str:
    """Empty once it has ended."""
    try:
        return process.name()
    except psutil.Error:
        return ""


@contextmanager
def random_kills(pause: float) -> Iterator[list[int]]:
    """Kills a copy now and then; gives the list of those that were."""
    over, killed, rng = threading.Event(), [], random.Random(0)

    def kill() -> None:
        while not over.wait(pause):
            if found := actors():
                killed.append(rng.choice(found))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_copies_that_are_killed_are_replaced_and_cost_no_reply():
    requests = [request(f"r{i}", seed=i, n=1 + i % 3) for i in range(800)]
    expected = {key: said(key, r.seed) for r in requests for key in r.keys}
    build = partial(ScriptedModel, 0.006)
    with closing(ReplicatedModel(build, 32, replicas=2, cluster="")) as model:
        with random_kills(1.2) as killed:
            found = list(model.complete(requests))
        assert len(model.copies) == 2
    assert len(killed) > 2  # as many as there are copies would have ended it, were none replaced
    assert len(found) == len(expected)
    assert {r.key: r.reply.text for r in found} == expected


def test_what_kills_its_process_fails_alone_and_what_breaks_or_hangs_it_too():
    names = [f"r{i}" for i in range(60)]
    names[7], names[25], names[40] = "poison", "endless", "broken"
    settings = {"replicas": 2, "cluster": "", "silent_s": 3.0}
    with closing(ReplicatedModel(ScriptedModel, 16, **settings)) as model:
        found = {r.key: r.reply for r in model.complete(map(request, names))}
    assert len(found) == 60
    failed = {key: reply.failure for key, reply in found.items() if reply.failure}
    assert set(failed) == {"poison", "broken", "endless"}
    assert all(failure.startswith(CRASH) for failure in failed.values())


def test_a_model_that_cannot_load_is_given_up_with_its_reason():
    said_why = pytest.raises(NoReplica, match=r"/no/such/model: it has no config\.json")
    with closing(ReplicatedModel(never_loads, 16, replicas=1, cluster="")) as model, said_why:
        list(model.complete([request("r")]))


def test_a_call_that_is_left_early_leaves_nothing_to_the_next():
    with closing(ReplicatedModel(ScriptedModel, 4, replicas=1, cluster="")) as model:
        first = model.complete(request(f"a{i}") for i in range(100))
        assert next(first).key == "a0"
        first.close()
        keys = [r.key for r in model.complete(request(f"b{i}") for i in range(100))]
    assert sorted(keys) == sorted(f"b{i}" for i in range(100))


@contextmanager
def driver(address: str, copies: int) -> Iterator[subprocess.Popen[str]]:
    """A process that runs copies, once it has a first reply."""
    command = [sys.executable, str(ROOT / "tests/programs/replicated.py"), address, str(copies)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout and process.stdout.readline().startswith("replies")
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_driver_that_is_killed_takes_its_copies_and_ray_along():
    """Two agents of Ray's look for it for another minute; they hold nothing, and are not waited
    for."""
    with driver("", 2) as process:
        ends = time.monotonic() + 60
        copies = 0
        while copies < 2 and time.monotonic() < ends:  # the first reply may be before the second
            theirs = psutil.Process(process.pid).children(recursive=True)
            names = {each: name_of(each) for each in theirs}
            waited = [each for each, name in names.items() if not name.endswith("Agent")]
            copies = sum("_Worker" in name for name in names.values())
        assert copies == 2
        process.kill()
        assert psutil.wait_procs(waited, timeout=20)[1] == []
