"""Any terms in the sum: what a term returns is all that is known of it."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from typing import Literal

import pytest
from pydantic import ValidationError

from caprl_native.observe.metrics import Sum
from caprl_native.registry import Entry
from caprl_native.rewards.base import (
    NOT_APPLICABLE,
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermContext,
    TermOptions,
    any_reads,
    finished,
    gathered,
    missing,
)
from caprl_native.rewards.rubric import Rubric, WeightedTerm
from caprl_native.rewards.terms.accuracy import AccuracyOptions
from caprl_native.rewards.terms.length import LengthOptions
from caprl_native.rewards.terms.timestamps import TimestampsOptions
from tests.rewards.asking import ListeningReader, caption, group, rubric, sample, score

TEXTS = ["a red circle", "one two", ""]


class SaidOptions(TermOptions):
    """A number that the caption itself says."""

    type: Literal["said"] = "said"


class Said(RewardTerm[SaidOptions]):
    """`nan`, `none`, `inf`, `gone`, `raises`, ...: every way in which a term can have no score."""

    def __init__(self, options: SaidOptions, context: TermContext) -> None:
        super().__init__(options, context)
        self.seen: list[str] = []

    def submit(self, caption: Caption) -> Future[Score]:
        self.seen.append(caption.text)
        future: Future[Score] = Future()
        if caption.text == "raises":
            raise RuntimeError("at once")
        if caption.text == "fails":
            future.set_exception(RuntimeError("later"))
        elif caption.text == "gone":
            future.cancel()
        elif caption.text == "none":
            future.set_result(Score(None))
        elif caption.text == "missing":
            future.set_result(Score(0.5, failure="nobody knows"))
        elif caption.text == "elsewhere":
            future.set_result(NOT_APPLICABLE)
        else:
            return finished(float(caption.text))
        return future

    def begin(self, step: int) -> None:
        self.seen = [f"begin {step}"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """For these tests alone: others list what is registered."""
    monkeypatch.setitem(TERMS._entries, "said", Entry("said", Said, SaidOptions))


def test_a_term_of_another_module_is_part_of_the_sum() -> None:
    g = group(["0.25", "1", "-2"])
    score(rubric(mine=SaidOptions(weight=0.5), length=LengthOptions(l1=0, l2=2)), [g])
    assert [r.rewards for r in g.rollouts] == [
        {"mine": value, "length": 0.5} for value in (0.25, 1.0, -2.0)
    ]
    assert [r.total for r in g.rollouts] == [0.625, 1.0, -0.5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nan", "reward.terms.mine: its value is nan"),
        ("-inf", "reward.terms.mine: its value is -inf"),
        ("none", "reward.terms.mine: its value is None"),
        ("raises", "reward.terms.mine: RuntimeError: at once"),
        ("fails", "reward.terms.mine: RuntimeError: later"),
        ("gone", "reward.terms.mine: CancelledError: "),
        ("missing", "nobody knows"),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_whatever_fails_leaves_no_part_of_a_reward(text: str, reason: str, place: str) -> None:
    g, others = group([text, "1"], kind="video"), dict(length=LengthOptions())
    others["timestamps"] = TimestampsOptions()
    mine = {"mine": SaidOptions(weight=1e-9)}
    score(rubric(**(mine | others if place == "first" else others | mine)), [g])
    failed, good = g.rollouts
    assert failed.total is None and failed.rewards == {} and failed.failure == reason
    assert good.total is not None and good.failure is None
    assert g.scored == [good]


def test_a_term_that_does_not_apply_is_no_failure_but_some_term_has_to() -> None:
    g = group(["elsewhere", "0.5"])
    score(rubric(mine=SaidOptions(), length=LengthOptions()), [g])
    assert [r.rewards for r in g.rollouts] == [{"length": 1.0}, {"mine": 0.5, "length": 1.0}]
    g = group(["elsewhere", "0.5"])
    score(rubric(mine=SaidOptions()), [g])
    assert g.rollouts[0].total is None and "no reward term applies" in str(g.rollouts[0].failure)
    assert g.rollouts[1].total == 0.5


def test_a_type_may_serve_several_times() -> None:
    g = group(["a b c d"])
    score(rubric(short=LengthOptions(l1=0, l2=8), long=LengthOptions(l1=8, l2=9, weight=0.1)), [g])
    assert g.rollouts[0].rewards == {"short": 0.5, "long": 1.0}
    assert g.rollouts[0].total == 0.5 + 0.1


def test_terms_that_read_share_one_reader_and_say_whose_reading_is_whose() -> None:
    built: list[ListeningReader] = []

    def build() -> ListeningReader:
        built.append(ListeningReader())
        return built[-1]

    terms = {
        "accuracy": AccuracyOptions(questions="own", draws=2),
        "blunt": AccuracyOptions(questions="own", draws=1, weight=0.5),
    }
    ours, g = Rubric.of(terms, TermContext(build)), group(TEXTS)
    score(ours, [g])
    assert len(built) == 1 and len(built[0].heard) == 3 * len(TEXTS)
    for rollout in g.rollouts:
        assert [entry["term"] for entry in rollout.reading] == ["accuracy", "accuracy", "blunt"]
        assert rollout.rewards.keys() == {"accuracy", "blunt"}


def test_without_a_term_that_reads_there_is_no_reader() -> None:
    terms = {"accuracy": AccuracyOptions(weight=0), "length": LengthOptions()}

    def never() -> ListeningReader:
        raise AssertionError("a reader was built")

    ours, g = Rubric.of(terms, TermContext(never)), group(TEXTS)
    score(ours, [g])
    score(ours.for_evaluation(draws=0), [g])
    assert not any_reads(terms) and any_reads({"accuracy": AccuracyOptions()})
    ours.sleep(), ours.wake(), ours.close()
    assert ours.names == ["length"] and [r.rewards for r in g.rollouts] == [{"length": 1.0}] * 3


class Collective(ListeningReader):
    collective = True


class Single(ListeningReader):
    collective = False


@pytest.mark.parametrize("reader", [Collective(), Single()])
def test_captions_of_other_ranks_reach_what_all_ranks_work_on_together(
    reader: ListeningReader,
) -> None:
    ours = rubric(reader, accuracy=AccuracyOptions(draws=0), mine=SaidOptions())
    g = group(["1", "2"])
    scoring = ours.begin(3)
    for i, rollout in enumerate(g.rollouts):
        scoring.add(g.sample, i, rollout, is_local=i == 0)
    scoring.finish()
    heard = {text.split("\n")[1] for text, _ in reader.heard}
    assert heard == ({"1", "2"} if reader.collective else {"1"})
    assert ours.terms[1].term.seen == ["begin 3", "1"]
    first, second = g.rollouts
    assert first.total is not None
    assert second.total is None and second.failure is None and second.rewards == {}


class RankOptions(TermOptions):
    type: Literal["rank"] = "rank"


class Rank(RewardTerm[RankOptions]):
    """The share of a sample's other captions that think longer."""

    def submit(self, caption: Caption) -> Future[Score]:
        return finished(caption.thinking_tokens)

    def submit_group(self, captions, scores):
        heard = [(c.key[-1], c.raw, c.answer_tokens) for c in captions]
        if "" in [c.raw for c in captions]:
            raise ValueError("an empty caption")
        values = [score.result().value for score in scores]
        more = [sum(other > v for other in values) / len(values) for v in values]
        return [finished(Score(m, reading=[{"heard": heard}])) for m in more]

    def metrics(self):
        return {"asked": Sum(3)}


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("of", [2, None])
def test_terms_get_a_sample_s_captions_together(overlap: bool, of: int | None) -> None:
    context = TermContext(ListeningReader)
    ours = Rubric([WeightedTerm("rank", 1.0, Rank(RankOptions(), context))], context)
    ours.overlap = overlap
    groups = [group(["a", "b"]), group(["c", "d"]), group(["e", ""], name="s1")]  # two of one id
    for g in groups:
        g.rollouts[0].thoughts = (0, 1)
    scoring = ours.begin(1)
    for i in (1, 0):
        for g in groups:
            scoring.add(g.sample, i, g.rollouts[i], of=of)
    scoring.finish()
    assert [[r.total for r in g.rollouts] for g in groups[:2]] == [[0.0, 0.5]] * 2
    assert groups[1].rollouts[0].reading == [{"heard": [(0, "c", 0), (1, "d", 1)]}]
    assert {r.failure for r in groups[2].rollouts} == {
        "reward.terms.rank: ValueError: an empty caption"
    }
    assert ours.metrics() == {"reward/rank/asked": Sum(3)}


def test_a_failure_of_what_all_ranks_work_on_together_ends_the_run() -> None:
    """Caught on one rank, it would leave the others waiting."""

    def broken(ask) -> str:
        raise RuntimeError("the engine is gone")

    with pytest.raises(RuntimeError, match="the engine is gone"):
        score(rubric(Collective(broken), accuracy=AccuracyOptions()), [group(TEXTS)])
    g = group(TEXTS)
    score(rubric(Single(broken), accuracy=AccuracyOptions()), [g])
    assert {r.failure for r in g.rollouts} == {
        "reward.terms.accuracy: RuntimeError: the engine is gone"
    }


@pytest.mark.parametrize(
    "given", [{"weight": -0.1}, {"weight": float("inf")}, {"weight": float("nan")}, {"wieght": 1}]
)
@pytest.mark.parametrize("name", list(TERMS))
def test_weights_are_bounded_and_typos_are_errors(name: str, given: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TERMS[name].options(**given)


def test_l1_above_l2_is_a_conflict() -> None:
    assert list(LengthOptions(l1=5, l2=6).conflicts()) == []
    assert list(LengthOptions(l1=6, l2=6).conflicts()) == [("l2", "more than l1", "l1")]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_gathered_keeps_the_order_whoever_comes_first(count: int) -> None:
    parts: list[Future[int]] = [Future() for _ in range(count)]
    whole = gathered(parts, lambda values: Score(float(len(values)), reading=[{"v": values}]))
    for i in reversed(range(count)):
        assert not whole.done()
        parts[i].set_result(i)
    assert whole.result(0).reading == [{"v": list(range(count))}]


def test_gathered_fails_and_never_hangs() -> None:
    parts: list[Future[int]] = [Future(), Future()]
    whole = gathered(parts, lambda values: missing("not reached"))
    parts[0].cancel()
    parts[1].set_result(1)
    assert isinstance(whole.exception(0), CancelledError)
    whole = gathered(parts[1:], lambda values: Score(1 / 0))
    assert isinstance(whole.exception(0), ZeroDivisionError)


def test_a_caption_s_sample_says_of_what_kind_it_is() -> None:
    options = TimestampsOptions(rule="release")
    term = TERMS["timestamps"].value(options, TermContext(ListeningReader))
    assert not term.submit(caption("[00:01]")).result(0).applies
    assert term.submit(caption("[00:01]", kind="video")).result(0).value == 1.0
    assert sample("x").modality == "image"
