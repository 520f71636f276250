"""A curation that is killed in every stage, and goes on: nothing is lost, asked twice, or other."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from caprl_native.curation.curate_cli import main
from caprl_native.testing.chat_server import Reply
from tests.curation.test_curate import RIGHT, text_of, world, written

ROOT = Path(__file__).resolve().parents[2]
FILES = ("generated.jsonl", "questions.jsonl", "answers.jsonl", "train-00000-of-00001.jsonl")
PICTURES, QUESTIONS, ROUNDS = 12, 5, 8  # rounds: four with the picture, four without


def solver(request: Mapping[str, Any]) -> Reply:
    """Right or not as the request's text and seed say, whenever it comes."""
    text, seen = text_of(request)
    labels = dict(re.findall(r"^([A-E])\) (.*)$", text, re.MULTILINE))
    right = next(letter for letter, t in labels.items() if t in RIGHT.values())
    draw = hashlib.blake2b(f"{text} {request['seed']} {seen}".encode()).digest()[0]
    return Reply(text=right if draw < (250 if seen else 60) else "I do not know")


class Killer:
    """Answers, and kills the program, as it is given it, at these requests."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Reply], at: set[int]) -> None:
        self.answer, self.at, self.count = answer, at, 0
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __call__(self, request: Mapping[str, Any]) -> Reply:
        with self._lock:
            self.count += 1
            if self.process and self.count in self.at:
                os.kill(self.process.pid, signal.SIGKILL)
        return self.answer(request)


def started(words: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tools" / "curate_qa.py"), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def killed_when(process: subprocess.Popen[bytes], there: Path) -> int:
    """Kills it as soon as a file is there; its exit code."""
    while process.poll() is None and not there.exists():
        time.sleep(0.002)
    process.kill()
    return process.wait()


def test_killed_in_every_stage_it_ends_the_same(tmp_path: Path) -> None:
    names = [f"{i:02d}" for i in range(PICTURES)]
    writes_first = Killer(lambda request: Reply(text=written()), {5})
    solves = Killer(solver, {100, 300})
    with world(tmp_path, names, writer=writes_first, solver=solves) as (words, _, asked):
        words += ["--output.format=jsonl", "--solver.concurrency=8", "--run.chunk=5"]
        undisturbed = [*words, f"--output.dir={tmp_path / 'undisturbed'}"]
        assert main(undisturbed) == 0
        writes_first.count = solves.count = 0
        out, codes = tmp_path / "out", []
        for _ in range(3):  # while questions are written, and twice while they are answered
            writes_first.process = solves.process = started(words)
            codes.append(solves.process.wait(120))
        assert codes == [-signal.SIGKILL] * 3
        codes = [  # as soon as the extraction has written, then in the middle of the last stage
            killed_when(started([*words, "--overwrite", "--stage=extract"]), out / FILES[1]),
            killed_when(started(words), out / FILES[2]),
        ]
        assert set(codes) <= {-signal.SIGKILL, 0}
        before = len(asked.requests)
        assert started(words).wait(120) == 0
        assert len(asked.requests) == before  # all answers were there
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    answers = PICTURES * QUESTIONS * ROUNDS
    # Asked again: the pictures that a kill met, at most three of them with eight requests at once.
    assert answers <= solves.count <= answers + 2 * 3 * QUESTIONS * ROUNDS
    assert writes_first.count <= PICTURES + 8
