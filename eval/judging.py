"""What a judge is asked, step by step, and what comes of it.

A rule asks a judge with `ToJudge`; the reply is a verdict, or leads to a further step. All steps
are found again in the store of judgements, so a judgement that was broken off goes on where it was.
A reply that cannot be read is asked for again, and is then missing: it is no score.
"""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from caprl_native.inference.models import Request, Result
from caprl_native.inference.store import Reply, Store
from eval.config import PrismConfig
from eval.items import Item, ToJudge, Verdict
from eval.plan import Judgements

UNREADABLE = "the judge's reply has no verdict"
Reading = Callable[[str], Verdict | ToJudge | None]


@dataclass(frozen=True)
class Case:
    """One output that waits for one of its repeated judgements."""

    item: Item
    first: ToJudge
    read: Reading  # of steps that bring none of their own
    repeat: int


@dataclass(frozen=True)
class Judged:
    """How far a judgement has come: its verdict, or what is to be asked for next.

    `reply` is the last step's, None where it was not asked yet.
    """

    verdict: Verdict | None = None
    reply: Reply | None = None
    next: Request | None = None

    @property
    def unreadable(self) -> bool:
        """Whether there is a reply, and no verdict in it."""
        return self.verdict is None and self.reply is not None and self.reply.text is not None


class Judging:
    """The judgements of a run, in its store."""

    def __init__(self, config: PrismConfig, store: Store) -> None:
        self.store, self.plan = store, Judgements(config)
        self.repeats = config.judge.repeats
        self.keep_failed = config.run.keep_failed

    def judged(self, case: Case) -> Judged:
        """What is known of a case; what failed and what cannot be read is to be asked again."""
        step = case.first
        while True:
            request, reply, found = self._asked(case, step)
            if reply is None or reply.text is None or found is None:
                return Judged(reply=reply, next=request)
            if isinstance(found, Verdict):
                return Judged(found, reply)
            step = found

    def _asked(
        self, case: Case, step: ToJudge
    ) -> tuple[Request, Reply | None, Verdict | ToJudge | None]:
        """Of the attempts at a step the first that can be read, or is missing; else the last."""
        read = step.read or case.read
        for attempt in range(self.plan.attempts):
            request = self.plan.request(case.item, step.messages, case.repeat, attempt)
            reply = self.store.get(request.keys[0])
            found = None if reply is None or reply.text is None else read(reply.text)
            if reply is None or reply.text is None or found is not None:
                break
        return request, reply, found

    def to_ask(self, case: Case) -> Request | None:
        """What the judge is to be asked next about a case."""
        judged = self.judged(case)
        return None if judged.reply is not None and self.keep_failed else judged.next

    def count(self, cases: Iterable[Case]) -> int:
        """Requests that the cases begin with; equal ones are one."""
        requests = (self.to_ask(case) for case in cases)
        return len({request.keys[0] for request in requests if request})


class Backlog:
    """Requests that come one after another: a reply may lead to the next step of its case.

    Each is asked once in a run. Equal requests of several cases are one. Cases are taken as the
    judge has room: of a large benchmark not all stand in memory.
    """

    def __init__(self, judging: Judging, cases: Iterable[Case]) -> None:
        self._judging, self._cases = judging, iter(cases)
        self._ready: deque[Request] = deque()
        self._waiting: defaultdict[str, list[Case]] = defaultdict(list)
        self._ended: set[str] = set()

    def requests(self) -> Iterator[Request | None]:
        """The next request, or None where all wait for replies."""
        while True:
            while not self._ready and (case := next(self._cases, None)):
                self._advance(case)
            yield self._ready.popleft() if self._ready else None

    def keep(self, result: Result) -> None:
        """Writes a reply down, and gets the next steps of the cases that it is about ready."""
        self._judging.store.add(result.key, result.reply)
        self._ended.add(result.key)
        for case in self._waiting.pop(result.key, []):
            self._advance(case)

    def _advance(self, case: Case) -> None:
        request = self._judging.to_ask(case)
        if request is None or request.keys[0] in self._ended:
            return
        if request.keys[0] not in self._waiting:
            self._ready.append(request)
        self._waiting[request.keys[0]].append(case)


def combined(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """The mean of repeated judgements, those that are missing left out; None where all are."""
    known = [v for v in verdicts if v is not None]
    if len(verdicts) == 1 or not known:
        return known[0] if known else None
    scores = [None if v is None else v.score for v in verdicts]
    mean = statistics.fmean(v.score for v in known)
    return Verdict(mean, known[0].said, {**known[0].detail, "repeats": scores})


def why_missing(judged: Sequence[Judged]) -> str | None:
    """Why a judgement is missing, where one is."""
    found = [j for j in judged if j.verdict is None]
    if not found:
        return None
    reply = found[0].reply
    reason = "not run" if reply is None else reply.failure or UNREADABLE
    return reason if len(judged) == 1 else f"{len(found)} of {len(judged)} judgements: {reason}"
