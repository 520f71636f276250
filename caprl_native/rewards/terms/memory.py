"""Memories of a long video's segments: true, new and useful, beside the others of their group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from caprl_native.rewards.base import (
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermContext,
    finished,
    gathered,
    missing,
    reason_of,
)
from caprl_native.rewards.judges import build_judge
from caprl_native.rewards.judges.base import Case, Cost, Judge, Verdict
from caprl_native.rewards.memory.options import ROLES, MemoryOptions, Role
from caprl_native.seeds import rng_of

if TYPE_CHECKING:
    from caprl_native.observe.metrics import Metric
    from caprl_native.rewards.memory.judging import Group, Opened

J = TypeVar("J")


@TERMS.register(MemoryOptions)
class Memory(RewardTerm[MemoryOptions]):
    """Judgements of each memory are asked for as it comes, the ranking once its group is judged.

    Where one judgement is missing the whole group's rewards are.
    """

    def __init__(self, options: MemoryOptions, context: TermContext) -> None:
        super().__init__(options, context)
        self.judges = _judges(options, context.tp_size)
        shared = {judge.collective for judge in self.judges.values()}
        self.collective = True in shared
        if len(shared) > 1 and context.tp_size > 1:
            raise ValueError(
                "expected all judges in process or none of them: ranks that share an engine must "
                "ask it the same, and servers may tell them different things"
            )
        self._opened: dict[int, Opened] = {}  # whose group is not complete, by the caption's id
        self._waiting: list[Group] = []  # to be ranked in process, in their order
        self._lock = threading.Lock()
        self._step, self._costs, self._failed = -1, dict.fromkeys(ROLES, Cost()), 0

    def submit(self, caption: Caption) -> Future[Score]:
        """Asks of this memory alone what can matter; its reward comes with its group."""
        from caprl_native.rewards.memory.judging import Opened, correctness_case, label_case

        opened, options = Opened.of(caption), self.options
        text = opened.judged.description
        if text is not None and opened.judged.may_be_valid(options):
            limits = options.judge("correctness").limits
            true = correctness_case(caption, text, self._attempts("correctness"), limits)
            new = label_case(caption, text, self._attempts("label"))
            opened.asked = {
                "correctness": self._ask("correctness", true),
                "label": self._ask("label", new),
            }
        self._opened[id(caption)] = opened
        return finished(missing("memory: its group is not complete"))

    def submit_group(
        self, captions: Sequence[Caption], scores: Sequence[Future[Score]]
    ) -> list[Future[Score]]:
        from caprl_native.rewards.memory.judging import Group

        group = Group.of([self._opened.pop(id(caption)) for caption in captions])
        if self.judges["usefulness"].collective:
            self._waiting.append(group)  # ranks that share it ask in the same order
        else:
            judged = gathered(group.asked, list)
            judged.add_done_callback(lambda _: self._rank(group))
        return group.scores

    # --- once all are judged ------------------------------------------------------------------

    def _rank(self, group: Group) -> None:
        """Asks which is the most useful, where there is a choice."""
        from caprl_native.rewards.memory.judging import usefulness_case

        def go_on() -> None:
            for one in group.opened:
                one.take()
            order = group.correct(self.options)
            if len(order) < 2 or not self.options.usefulness_scale:
                group.settle({}, self.options)
                return
            rng_of("memory", *group.opened[0].caption.key[:-1]).shuffle(order)
            case = usefulness_case(group.opened, order, self._attempts("usefulness"))
            ranked = self._ask("usefulness", case)
            ranked.add_done_callback(lambda _: self._take_ranking(group, order, ranked))

        self._guarded(group, go_on)

    def _take_ranking(
        self, group: Group, order: list[int], ranked: Future[Verdict[list[int]]]
    ) -> None:
        from caprl_native.rewards.memory.reward import rank_scores

        def settle() -> None:
            verdict = ranked.result()
            if verdict.judgement is None:
                raise LookupError(f"usefulness {verdict.failure}")
            group.settle(rank_scores([order[i] for i in verdict.judgement]), self.options)

        self._guarded(group, settle)

    def _guarded(self, group: Group, call: Callable[[], None]) -> None:
        """Callbacks swallow what they raise, and whoever waits would wait for ever."""
        try:
            call()
        except BaseException as error:
            with self._lock:
                self._failed += len(group.opened)
            is_ours = isinstance(error, LookupError) and error.args
            group.give_up(f"memory: {error.args[0] if is_ours else reason_of(error)}")
            if not isinstance(error, Exception):
                raise

    # --- asking -------------------------------------------------------------------------------

    def _ask(self, role: Role, case: Case[J]) -> Future[Verdict[J]]:
        verdict = self.judges[role].ask(case)
        verdict.add_done_callback(lambda done: self._count(role, done))
        return verdict

    def _count(self, role: Role, done: Future[Verdict[J]]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        with self._lock:
            self._costs[role] += done.result().cost

    def _attempts(self, role: Role) -> int:
        """Replies asked for until one can be read; of an engine at temperature 0 all are equal."""
        judge = self.options.judge(role)
        return 1 if judge.path and not judge.temperature else judge.attempts

    def metrics(self) -> dict[str, Metric]:
        """What judges cost, and `judge_failure`: rollouts without a reward as one of them failed.

        Ranks that share an engine count its requests together.
        """
        from caprl_native.observe.metrics import Sum

        with self._lock:
            costs, failed = dict(self._costs), self._failed
        found: dict[str, Metric] = {"judge_failure": Sum(failed / self._sharing(self.collective))}
        for role, cost in costs.items():
            ranks = self._sharing(self.judges[role].collective)
            for name in ("requests", "retries", "prompt_tokens", "reply_tokens"):
                found[f"{role}/{name}"] = Sum(getattr(cost, name) / ranks)
        return found

    def _sharing(self, collective: bool) -> int:
        return self.context.tp_size if collective else 1

    # --- the judges ---------------------------------------------------------------------------

    @property
    def _all(self) -> list[Judge]:
        """Each once."""
        return list({id(judge): judge for judge in self.judges.values()}.values())

    def begin(self, step: int) -> None:
        self._opened, self._waiting = {}, []
        for judge in self._all:
            judge.reset()
        if step != self._step:
            self._step, self._costs, self._failed = step, dict.fromkeys(ROLES, Cost()), 0

    def work(self) -> None:
        for judge in self._all:
            judge.work()

    def finish(self) -> None:
        for judge in self._all:
            judge.finish()
        for group in self._waiting:
            gathered(group.asked, list).exception()  # waits for all of them
            self._rank(group)
        self._waiting = []
        for judge in self._all:
            judge.finish()

    def sleep(self) -> None:
        for judge in self._all:
            judge.sleep()

    def wake(self) -> None:
        for judge in self._all:
            judge.wake()

    def close(self) -> None:
        for judge in self._all:
            judge.close()


def _judges(options: MemoryOptions, tp_size: int) -> dict[Role, Judge]:
    """Who judges what; roles of equal settings share one."""
    built: list[tuple[object, Judge]] = []
    found: dict[Role, Judge] = {}
    for role in ROLES:
        config = options.judge(role)
        judge = next((judge for known, judge in built if known == config), None)
        if judge is None:
            judge = build_judge(config, tp_size)
            built.append((config, judge))
        found[role] = judge
    return found
