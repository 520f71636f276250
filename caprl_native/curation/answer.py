"""Stage 3: a model answers every question some rounds, with the media and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.curation.config import SolverConfig
from caprl_native.curation.identity import media_key, seeing_identity
from caprl_native.curation.prompts import VERSION, solver_messages
from caprl_native.curation.rounds import Round, rounds_of
from caprl_native.data.listing import Entry
from caprl_native.inference.jobs.task import Outcome, Task
from caprl_native.inference.models import Request
from caprl_native.inference.store import Reply, key_of
from caprl_native.seeds import seed_of

QUESTIONS = "questions"  # an entry's column


class Answer(Task):
    """All rounds of all questions of an input are its requests.

    Its record: `answers`, for each question a list of its rounds (`rounds.py`). A round that has no
    answer for what the request is has a `failure`; where no round with the media has one, the input
    fails.
    """

    def __init__(self, solver: SolverConfig, media: MediaConfig, seed: int) -> None:
        self.solver, self.media, self.seed = solver, media, seed
        self._identity = ["answer", VERSION, *seeing_identity(solver, media), seed]
        self._identity += [solver.rounds, solver.none_of_the_above]

    @property
    def identity(self) -> list[Any]:
        return self._identity

    def content(self, entry: Entry) -> str:
        """Equal questions on equal files."""
        return key_of(media_key(entry.media), _questions(entry)) if _questions(entry) else ""

    def requests(self, entry: Entry) -> Sequence[Request]:
        subject = media_key(entry.media)
        return [self._request(entry, subject, *named) for named in self._rounds(entry, subject)]

    def _rounds(self, entry: Entry, subject: str) -> Iterator[tuple[str, Round]]:
        """Every round under its request's key."""
        for i, q in enumerate(_questions(entry)):
            given = (q["question"], q["choices"], q["answer"], self.solver.rounds)
            key = (self.seed, subject, q["question"])
            for its in rounds_of(*given, self.solver.none_of_the_above, *key):
                yield f"{i}-{its.kind}-{its.number}", its

    def _request(self, entry: Entry, subject: str, name: str, its: Round) -> Request:
        choices = list(its.shown.choices)
        messages = solver_messages(its.kind, entry.media, its.shown.question, choices)
        seed = seed_of("curation", "answer", self.seed, subject, its.shown.question, name)
        media = entry.media if its.kind == "media" else ()
        return Request((name,), messages, seed, entry.id, media)

    def finish(self, entry: Entry, replies: Mapping[str, Reply]) -> Outcome:
        answers: list[list[dict[str, Any]]] = [[] for _ in _questions(entry)]
        failures: list[str] = []
        for name, its in self._rounds(entry, media_key(entry.media)):
            reply, place = replies[name], int(name.partition("-")[0])
            if reply.text is None:
                reason = reply.failure or "no answer"
                failures += [reason] if its.kind == "media" else []
                answers[place].append(its.missing(reason))
            else:
                answers[place].append(its.read(reply.text))
        if failures and len(failures) == len(answers) * self.solver.rounds:
            return Outcome(failure=failures[0])
        lost = sum("failure" in its for rounds in answers for its in rounds)
        counts = {"questions": len(answers)} | ({"rounds without an answer": lost} if lost else {})
        return Outcome({"answers": answers}, counts=counts if answers else {})


def _questions(entry: Entry) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = entry.columns.get(QUESTIONS) or []
    return found
