"""A worker's own part of scoring, without a server: questions that are asked as they are given."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from caprl_native.rewards.base import TermContext
from caprl_native.rewards.rubric import Rubric
from caprl_native.rewards.service import worker
from caprl_native.rewards.service.config import ServiceConfig
from caprl_native.rewards.service.protocol import Job, Outcome
from caprl_native.rewards.service.question_text import AsGiven
from caprl_native.rewards.service.worker import outcome_of, submit
from caprl_native.rewards.terms.accuracy import AccuracyOptions
from tests.rewards.asking import ListeningReader


def outcome(answer: str) -> Outcome:
    """Of a caption whose one question is asked as it is given, and answered so."""
    context = TermContext(lambda: ListeningReader(lambda _: answer))
    rubric = Rubric.of({"accuracy": AccuracyOptions(answers="sampled")}, context)
    job = Job("qa", "x", "image", (0, "s", 0), as_given=(AsGiven("Is it red? A: yes.", "A"),))
    return outcome_of(rubric, job, submit(rubric, job))


@pytest.mark.parametrize(("answer", "value"), [(" A", 1.0), (" B", 0.0), ("I cannot say", 0.0)])
def test_a_question_as_given_is_right_or_wrong(answer, value):
    assert outcome(answer).values == {"accuracy": value}


def test_an_answer_whose_thoughts_were_cut_off_is_missing_not_wrong():
    found = outcome("<think>The caption speaks of a circle")
    assert "cut off" in (found.failure or "") and not found.values


def test_who_has_gone_keeps_nobody_else_from_hearing_that_the_worker_is_lost(monkeypatch):
    def broken(_: object) -> Rubric:
        started.wait()
        raise RuntimeError("no memory")

    started = threading.Event()
    monkeypatch.setattr(worker, "build", broken)
    lost = worker.Worker(ServiceConfig())
    jobs = [Job("qa", "x", "image", (0, "s", i)) for i in range(8)]
    futures = lost.submit(jobs)
    for future in futures[::2]:
        assert future.cancel()
    started.set()
    for future in futures[1::2]:
        with pytest.raises(worker.WorkerLost, match="no memory"):
            future.result(timeout=10)


def test_a_reader_that_breaks_over_a_question_as_given_leaves_it_missing():
    class Broken(ListeningReader):
        def ask(self, asks):
            failed = Future()
            failed.set_exception(ConnectionError("gone"))
            return [failed for _ in asks]

    context = TermContext(lambda: Broken(lambda _: ""))
    rubric = Rubric.of({"accuracy": AccuracyOptions(answers="sampled")}, context)
    job = Job("qa", "x", "image", (0, "s", 0), as_given=(AsGiven("Is it red? A: yes.", "A"),))
    found = outcome_of(rubric, job, submit(rubric, job))
    assert "gone" in (found.failure or "") and not found.values
