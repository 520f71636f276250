"""Attacks tried on the rewards of a config: each term before and after, and what was gained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from caprl_native.rewards.base import TermContext
from caprl_native.rewards.laboratory.attacks import ATTACKS, Attack
from caprl_native.rewards.laboratory.subjects import Knowledge, Subject
from caprl_native.rewards.readers.base import Answer, Ask, Reader
from caprl_native.rewards.rubric import Rubric, Scoring
from caprl_native.rewards.terms.accuracy import AccuracyOptions
from caprl_native.types import Rollout

if TYPE_CHECKING:
    from caprl_native.config.reward import RewardConfig

Count = Callable[[str], int]  # tokens of a text


@dataclass(frozen=True)
class Outcome:
    """An attack's mean effect over `captions` captions; `lost` further ones got no reward.

    `terms`: by name, the mean reward before and after. `gain`: of the weighted sum, `aimed`: of
    what counts of it (see `Attack`, and for `limit`); None where no attacked caption got a reward.
    """

    attack: str
    captions: int
    lost: int
    terms: dict[str, tuple[float, float]]
    gain: float | None
    aimed: float | None
    limit: str = ""

    def exceeds(self, bound: float) -> bool:
        """Whether it is held against the recipe."""
        return not self.limit and self.aimed is not None and self.aimed > bound

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class RememberingReader:
    """A reader that answers again what it was asked before: recipes ask much the same.

    It belongs to whoever made it: closing it is left to them.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._answers: dict[str, Future[Answer]] = {}

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        new = {key: ask for ask in asks if (key := repr(ask)) not in self._answers}
        self._answers |= zip(new, self._reader.ask(list(new.values())), strict=True)
        return [self._answers[repr(ask)] for ask in asks]

    def reset(self) -> None:
        """Keeps what it knows."""

    def close(self) -> None:
        """Nothing of its own is open."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def rubric_of(config: RewardConfig, reader: Callable[[], Reader], seed: int = 0) -> Rubric:
    """The rewards of a config with this reader alone.

    Each question is asked once, not drawn, and the probabilities of its answers are weighed where
    the reader tells them: the means are those of training, without its noise.
    """
    terms = {
        name: options.model_copy(update={"answers": "expected"})
        if isinstance(options, AccuracyOptions)
        else options
        for name, options in config.terms.items()
    }
    context = TermContext(reader, seed)
    return Rubric.of(terms, context, gate=config.gate).for_evaluation(0)


def try_attacks(
    rubric: Rubric,
    subjects: Sequence[Subject],
    count: Count,
    attacks: Sequence[Attack] = ATTACKS,
) -> list[Outcome]:
    """What each attack does to the rewards of the captions that it applies to.

    A caption and what an attack makes of it get the same questions, shuffles and seeds.
    """
    knowledge = Knowledge(subjects)
    scoring, pairs = rubric.begin(0), {}
    for attack in attacks:
        chosen = [s for s in subjects if s.sample.modality == "video" or not attack.videos]
        pairs[attack.name] = [
            (
                _submit(scoring, s, attack.text_before(s), count),
                _submit(scoring, s, attack.write(s, knowledge), count),
            )
            for s in chosen
        ]
    scoring.finish()
    return [_outcome(attack, pairs[attack.name], rubric) for attack in attacks]


def _submit(scoring: Scoring, subject: Subject, text: str, count: Count) -> Rollout:
    rollout = Rollout([0] * count(text), [], "stop", text)
    scoring.add(subject.sample, 0, rollout)
    return rollout


def _outcome(attack: Attack, pairs: Sequence[tuple[Rollout, Rollout]], rubric: Rubric) -> Outcome:
    scored = [(b, a) for b, a in pairs if b.total is not None and a.total is not None]
    terms: dict[str, tuple[float, float]] = {}
    gains: dict[str, float] = {}  # by type
    for t in rubric.terms:
        rewards = [(b.rewards[t.name], a.rewards[t.name]) for b, a in scored if t.name in b.rewards]
        if rewards:
            before, after = (fmean(column) for column in zip(*rewards, strict=True))
            terms[t.name] = before, after
            gain, kind = (
                t.weight * (after - before) * len(rewards) / len(scored),
                t.term.options.type,
            )
            gains[kind] = gains.get(kind, 0.0) + gain
    whole = sum(gains.values())
    return Outcome(
        attack=attack.name,
        captions=len(scored),
        lost=len(pairs) - len(scored),
        terms=terms,
        gain=whole if scored else None,
        aimed=(gains.get(attack.aims_at, 0.0) if attack.aims_at else whole) if scored else None,
        limit=attack.limit,
    )


def table(outcomes: Sequence[Outcome], bound: float) -> str:
    """The outcomes for people to read, those that gain most first; `!` where one exceeds."""
    names = list(dict.fromkeys(name for o in outcomes for name in o.terms))
    width = max(len(o.attack) for o in outcomes)
    lines = [f"{'attack':{width}}  {'gain':>8}   " + "   ".join(f"{n:>16}" for n in names)]
    for o in sorted(outcomes, key=lambda o: -(o.gain if o.gain is not None else -1e9)):
        gain = "no reward" if o.gain is None else f"{o.gain:+.3f}"
        mark = "!" if o.exceeds(bound) else "*" if o.limit else "~" if o.gain != o.aimed else " "
        cells = [
            f"{o.terms[n][0]:.3f} -> {o.terms[n][1]:.3f}" if n in o.terms else "" for n in names
        ]
        lines.append(
            f"{o.attack:{width}}  {gain:>8} {mark} " + "   ".join(f"{c:>16}" for c in cells)
        )
    if any(o.gain != o.aimed for o in outcomes):
        lines.append("~ what counts is the gain in time stamps: any stamp lets the reader guess")
    lines += [f"* {o.attack}: {o.limit}" for o in outcomes if o.limit]
    return "\n".join(lines)
