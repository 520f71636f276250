"""Signs that captions get better at the reward and not at telling: metrics and warnings of a run.

`caption/stamps_per_100_words`, `caption/repetition`: means over the step's captions;
`caption/length_ratio`: their mean tokens over those of the first steps; `reward/TERM/blind`: what
the reader gets right without any caption; and answers that choose nothing. docs/attacks.md says
what each may mean.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caprl_native.observe.metrics import Mean, Metric
from caprl_native.text.thoughts import without_thoughts
from caprl_native.types import Group

if TYPE_CHECKING:
    from caprl_native.config.alarms import AlarmsConfig

log = logging.getLogger(__name__)

LENGTH = "completion/length_mean"
STAMPS = "caption/stamps_per_100_words"
REPETITION = "caption/repetition"
LENGTH_RATIO = "caption/length_ratio"
BLIND = "/blind"  # ends the metric's name
OUTCOMES = ("right", "misled", "abstained")  # of an answer that is one of the choices

_NGRAM = 4
_STAMP = re.compile(r"\[[0-9]{1,3}:[0-9]{2}(?:\s*-\s*[0-9]{1,3}:[0-9]{2})?\]")
# A word; of scripts that put no blanks between words, a character.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\W\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]+"
)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without time stamps."""
    return _WORD.findall(_STAMP.sub(" ", text).casefold())


def stamp_density(text: str) -> float:
    """Time stamps per 100 words; a text of nothing else has 100 for each."""
    return 100 * len(_STAMP.findall(text)) / max(1, len(words_of(text)))


def repetition(text: str) -> float:
    """The share of a text's runs of four words that stand in it before, 0..1."""
    words = words_of(text)
    runs = [tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def caption_figures(written: str) -> dict[str, float]:
    """The figures of one caption, its thoughts aside; none of one without words."""
    text = without_thoughts(written)
    return {STAMPS: stamp_density(text), REPETITION: repetition(text)} if text.strip() else {}


def caption_metrics(groups: Iterable[Group]) -> dict[str, Metric]:
    """This rank's part of the figures of captions; captions without words are left out."""
    found = [caption_figures(r.text) for g in groups for r in g.rollouts]
    return {
        name: Mean.of(figures[name] for figures in found if figures)
        for name in (STAMPS, REPETITION)
    }


def first_lengths(folder: Path, steps: int) -> list[float]:
    """Mean caption lengths of a run's first `steps` steps, as far as its metrics.jsonl has them."""
    metrics = folder / "metrics.jsonl"
    if not metrics.exists():
        return []
    found: dict[int, float] = {}
    with metrics.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["step"] > steps:
                break
            if LENGTH in row:
                found[row["step"]] = row[LENGTH]
    return list(found.values())


class Alarms:
    """Warns of a step's metrics, on rank 0. Resumed, it reads the first lengths from the log."""

    def __init__(self, config: AlarmsConfig, first: Sequence[float] = ()) -> None:
        self.config = config
        self._first = list(first)
        self._last: dict[str, int] = {}  # by metric, the step of the last warning

    def length_ratio(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The step's mean length over that of the first steps, as a metric once these are over."""
        length = metrics[LENGTH]
        if len(self._first) < self.config.first_steps:
            self._first.append(length)
            return {}
        usual = sum(self._first) / len(self._first)
        return {LENGTH_RATIO: length / usual} if usual else {}

    def check(self, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        """Warns of each figure that is out of its bounds, unless it did so a short while ago.

        Returns the warnings given, by the metric's name.
        """
        given: dict[str, str] = {}
        for name, problem in self._problems(metrics):
            last = self._last.get(name)
            if last is None or step - last >= self.config.quiet_steps:
                self._last[name], given[name] = step, problem
                log.warning("step %d: %s", step, problem)
        return given

    def _problems(self, metrics: Mapping[str, float]) -> Iterable[tuple[str, str]]:
        config = self.config
        stamps, repeated = metrics.get(STAMPS, 0.0), metrics.get(REPETITION, 0.0)
        if config.stamps and stamps > config.stamps:
            yield (
                STAMPS,
                f"{stamps:.1f} time stamps per 100 words of a caption, more than alarms.stamps",
            )
        if config.repetition and repeated > config.repetition:
            yield (
                REPETITION,
                f"{repeated:.0%} of a caption's runs of {_NGRAM} words are repeated, more than "
                "alarms.repetition",
            )
        ratio, most = metrics.get(LENGTH_RATIO), config.length_ratio
        if most and ratio is not None and not 1 / most <= ratio <= most:
            yield (
                LENGTH_RATIO,
                f"captions are {ratio:.2f} times as long as in the first {config.first_steps} "
                "steps, beyond alarms.length_ratio",
            )
        for name in [name for name in metrics if name.endswith(BLIND)]:
            blind, told = metrics[name], metrics.get(f"{name.removesuffix(BLIND)}/mean", 0.0)
            if config.blind_share and blind > 0 and blind >= config.blind_share * told:
                yield (
                    name,
                    f"{name} is {blind:.2f}, with captions it is {told:.2f}: alarms.blind_share "
                    "or more of what is rewarded is not in the captions",
                )
        for term in [name.removesuffix("/right") for name in metrics if name.endswith("/right")]:
            none = 1 - sum(metrics.get(f"{term}/{outcome}", 0.0) for outcome in OUTCOMES)
            if config.no_choice and none >= config.no_choice:
                yield (
                    f"{term}/right",
                    f"{none:.0%} of the answers of the reader of {term} are none of the choices, "
                    "alarms.no_choice or more: look at what it says in the rollout log",
                )
