"""Scores captions as a training run would: the terms of the config, driven by one thread.

Captions join what is being scored whenever the reader has room, so that those of several clients
share its batches; each is answered as soon as its own terms have their values.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from caprl_native.registry import load_plugin
from caprl_native.rewards.base import Caption, Score, finished, gathered, missing, reason_of
from caprl_native.rewards.letter import parse_letter
from caprl_native.rewards.prompts import INSTRUCTION, chat
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.rewards.rubric import Rubric, WeightedTerm, build_rubric
from caprl_native.rewards.service.config import ServiceConfig, has_engine
from caprl_native.rewards.service.protocol import JUDGE_TERM, QA_TERMS, Job, Outcome
from caprl_native.seeds import seed_of
from caprl_native.text.thoughts import CUT_OFF, said
from caprl_native.types import MediaRef, Sample

_LETTERS = "ABCDEFGHI"  # that a question may be asked with as it is given
_Parts = dict[str, Future[Score]]


class WorkerLost(Exception):
    """A worker ended before it had scored what it was given."""


class Worker:
    """The reward in a thread of its own. `ready` is done when its models are loaded, or fails."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config, self.ready = config, Future[None]()
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Outcome]] | None] = queue.SimpleQueue()
        self._open: set[Future[Outcome]] = set()
        self._lock, self._lost, self._running = threading.Lock(), "", 0
        threading.Thread(target=self._run, name="reward", daemon=True).start()

    def submit(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        """Takes captions. Their outcomes raise WorkerLost where the reward itself broke."""
        futures: list[Future[Outcome]] = [Future() for _ in jobs]
        with self._lock:
            if self._lost:
                raise WorkerLost(self._lost)
            self._open |= set(futures)
        for pair in zip(jobs, futures, strict=True):
            self._jobs.put(pair)
        return futures

    def close(self) -> None:
        """Ends the thread when it has scored what it was given."""
        self._jobs.put(None)

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            rubric = build(self.config)
        except BaseException as error:
            self._break(error)
            self.ready.set_exception(WorkerLost(reason_of(error)))
            return
        self.ready.set_result(None)
        try:
            while self._step(rubric):
                pass
        except BaseException as error:
            self._break(error)
        finally:
            rubric.close()

    def _step(self, rubric: Rubric) -> bool:
        """Takes what waits, and goes on with it; False at the end."""
        taken = [self._jobs.get()]
        while not self._jobs.empty():
            taken.append(self._jobs.get())
        with self._lock:
            is_idle = not self._running
            self._running += sum(pair is not None for pair in taken)
        if is_idle:
            rubric.begin(0)  # caches are emptied, an endpoint that was given up is tried again
        for pair in taken:
            if pair is not None:
                self._begin(rubric, *pair)
        if self._jobs.empty():
            rubric.finish()
        else:  # others came in the meantime: they join in
            rubric.work()
        return None not in taken

    def _begin(self, rubric: Rubric, job: Job, outcome: Future[Outcome]) -> None:
        scores = submit(rubric, job)

        def settle() -> None:  # what it raised would be swallowed, and nobody answered
            try:
                found = outcome_of(rubric, job, scores)
            except Exception as error:
                found = Outcome(failure=reason_of(error))
            self._settle(outcome, found)

        when_done(list(scores.values()), settle)

    def _settle(self, future: Future[Outcome], outcome: Outcome) -> None:
        with self._lock:
            self._running -= 1
            if future not in self._open:
                return
            self._open.remove(future)
        if future.set_running_or_notify_cancel():
            future.set_result(outcome)

    def _break(self, error: BaseException) -> None:
        with self._lock:
            self._lost = reason_of(error)
            lost, self._open = self._open, set()
        for future in lost:
            if future.set_running_or_notify_cancel():
                future.set_exception(WorkerLost(self._lost))


def build(config: ServiceConfig) -> Rubric:
    """The terms of a server, in this process."""
    for name in config.plugins:
        load_plugin(name)
    if has_engine(config.reward):
        from caprl_native.distributed.world import init_distributed

        init_distributed(threads=int(os.environ.get("OMP_NUM_THREADS", 0)))  # Ray sets it
    rubric = build_rubric(config.reward, config.server.seed)
    if config.reward.reads:
        _ = rubric.context.reader  # loads it, where no term has yet
    return rubric


# --- one caption ------------------------------------------------------------------------------


def submit(rubric: Rubric, job: Job) -> _Parts:
    """Gives a caption to the terms of its mode. Nothing is raised: a failure is a missing score."""
    caption = Caption(_sample(job), job.caption, 0, job.key)
    if job.mode == "vl_judge":
        return {t.name: t.submit(caption) for t in rubric.terms if t.name == JUDGE_TERM}
    terms = rubric if job.draws is None else rubric.for_evaluation(job.draws)
    scores: _Parts = {}
    for term in terms.terms:
        if term.name == QA_TERMS[0]:
            scores[term.name] = _accuracy(rubric, term, caption, job)
        elif term.name in QA_TERMS:
            scores[term.name] = term.submit(caption)
    return scores


def _sample(job: Job) -> Sample:
    media = job.media or MediaRef(job.task, path="caption")
    return Sample(str(job.key[-2]), (media,), (), job.questions)


def _accuracy(rubric: Rubric, term: WeightedTerm, caption: Caption, job: Job) -> Future[Score]:
    """The term's score; of questions that are asked as given, each counts as one more question."""
    known = term.submit(caption) if job.questions else finished(0.0)
    if not job.as_given:
        return known
    try:
        asked = _ask_as_given(rubric, job)
    except Exception as error:
        return finished(missing(f"questions as given: {reason_of(error)}"))
    parts: list[Future[Any]] = [known, *asked]
    return gathered(parts, lambda found: _joined(job, found[0], found[1:]))


def _ask_as_given(rubric: Rubric, job: Job) -> list[Future[Answer]]:
    if not rubric.context.readers:
        raise ValueError("no choices were found in them, and the term asks no reader")
    asks = [
        Ask(
            chat(job.task, job.caption, f"Question: {q.text}\n\n{INSTRUCTION}"),
            seed_of("as given", *job.key, i),
        )
        for i, q in enumerate(job.as_given)
    ]
    return rubric.context.reader.ask(asks)


def _joined(job: Job, score: Score, answers: Sequence[Answer]) -> Score:
    if score.value is None:
        return score
    right, reading = 0, list(score.reading)
    for question, answer in zip(job.as_given, answers, strict=True):
        if answer.text is None:
            return missing(answer.failure or "the reader gave no answer")
        if said(answer.text).cut_off:
            return missing(f"answer: {CUT_OFF}; raise reward.reader.max_tokens")
        letters = sorted({*_LETTERS, question.letter})
        letter = parse_letter(answer.text, letters)
        right += letter == question.letter
        reading.append(
            {"question": question.text, "right": question.letter, "answer": answer.text}
            | {"letter": letter, "choices": []}
        )
    n, m = len(job.questions), len(job.as_given)
    return replace(score, value=(n * score.value + right) / (n + m), reading=reading)


def outcome_of(rubric: Rubric, job: Job, scores: _Parts) -> Outcome:
    """What the terms made of a caption."""
    found = {t.name: t.outcome(scores[t.name]) for t in rubric.terms if t.name in scores}
    found = {name: score for name, score in found.items() if score.applies}
    failures = [score.failure for score in found.values() if score.failure]
    if failures or not found:
        return Outcome(failure="; ".join(failures) or f"no term scores the mode {job.mode}")
    return Outcome(
        {name: score.value for name, score in found.items() if score.value is not None},
        parts={f"{n}/{p}": value for n, score in found.items() for p, value in score.parts.items()},
        reading=[entry for score in found.values() for entry in score.reading],
    )


def when_done(futures: Sequence[Future[Score] | Future[Answer]], call: Callable[[], None]) -> None:
    """Calls once all futures have a result or have failed."""
    left, lock = len(futures), threading.Lock()

    def one_more(_: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            done = left == 0
        if done:
            call()

    for future in futures:
        future.add_done_callback(one_more)
    if not futures:
        call()
