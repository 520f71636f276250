"""Folders of made-up runs: captions by chance, but rewarded by the real terms and logged by the
real log. For tests and benchmarks of what reads a run's folder; nothing in them was measured.
"""

from __future__ import annotations

import random
import shutil
import statistics
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from caprl_native.config.cli import dump
from caprl_native.config.schema import Config, LogConfig
from caprl_native.observe.alarms import caption_metrics
from caprl_native.observe.log import RunLog, records_of, write_records
from caprl_native.observe.metrics import group_metrics, numbers
from caprl_native.rewards.base import TermContext
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.rewards.rubric import Rubric
from caprl_native.rewards.terms.accuracy import AccuracyOptions
from caprl_native.rewards.terms.length import LengthOptions
from caprl_native.rewards.terms.timestamps import TimestampsOptions
from caprl_native.testing.media_files import moving_square, write_mp4, write_png
from caprl_native.types import Group, MediaRef, Question, Rollout, Sample

COLOURS = ("red", "green", "blue", "white")
ANIMALS = ("cat", "dog", "horse", "owl")
PLACES = ("garden", "kitchen", "street", "forest")
DEEDS = ("sleeps", "runs", "sings", "eats")
ASKED = {"colour": COLOURS, "animal": ANIMALS, "place": PLACES, "deed": DEEDS}
SECONDS = 2.0


class MadeRun:
    """A run of so many groups of n captions a step, every third of a video; `skill` grows with the
    steps. The same seed makes the same samples, so that two runs can be compared."""

    def __init__(
        self, folder: Path, *, groups: int = 6, n: int = 4, samples: int = 12, seed: int = 0
    ) -> None:
        self.folder, self.groups, self.n, self.seed = folder, groups, n, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.samples = _samples(folder.parent / "media", samples)
        terms: dict[str, Any] = {
            "accuracy": AccuracyOptions(),
            "length": LengthOptions(weight=0.2, l1=8, l2=60),
            "timestamps": TimestampsOptions(weight=0.2),
        }
        self.rubric = Rubric.of(terms, TermContext(_WordReader, seed))
        self.log = RunLog(folder, LogConfig(backends=[]), main=True, name="made", resolved="")
        config = Config()
        config.run.steps, config.reward.terms, config.policy.lr = 100, terms, 1e-6 * (1 + seed)
        (folder / "config.toml").write_text(dump(config))

    def step(
        self, step: int, *, alarm: str = "", captions: Sequence[str] = (), failure: str = ""
    ) -> None:
        """One step more. `alarm`: what is warned of; `captions`: of the first group; `failure`: why
        the first of them has no reward."""
        rng = random.Random(f"{self.seed}-{step}")
        chosen = [self.samples[(step + i) % len(self.samples)] for i in range(self.groups)]
        groups = [self._group(sample, step, rng) for sample in chosen]
        for rollout, text in zip(groups[0].rollouts, captions, strict=False):
            rollout.text = text
        self._score(groups, step)
        if failure:
            first = groups[0].rollouts[0]
            first.total, first.utility, first.failure, first.advantage = None, None, failure, 0.0
            first.rewards, first.parts = {}, {}
        write_records(self.folder, f"rollouts/step_{step:06d}.jsonl", records_of(groups))
        found = group_metrics(groups, self.rubric.names) | caption_metrics(groups)
        made = {"policy/loss": -rng.random() / step, "policy/grad_norm": 1 + rng.random()}
        if alarm:
            self.log.alarms(step, {"caption/repetition": alarm})
        self.log.metrics(step, numbers(found) | made | {"perf/step_s": 10 + rng.random()})

    def evaluate(self, step: int) -> None:
        """Greedy captions of all samples, and what is known without any."""
        rng = random.Random(f"{self.seed}-eval-{step}")
        groups = [self._group(sample, step, rng, 1) for sample in self.samples]
        blind = [Group(sample, (), [Rollout([], [], "stop", "")]) for sample in self.samples]
        for kind, found in (("eval", groups), ("blind", blind)):
            self._score(found, step)
            write_records(self.folder, f"{kind}/step_{step:06d}.jsonl", records_of(found))
        figures = numbers(group_metrics(groups, self.rubric.names))
        told = [group.rollouts[0].rewards["accuracy"] for group in blind]
        self.log.metrics(
            step,
            {f"eval/{name}": value for name, value in figures.items()}
            | {"reward/accuracy/blind": statistics.fmean(told)},
        )

    def repeat(self, of: int, steps: range) -> None:
        """Steps that say what step `of` said, fast."""
        for name in (f"rollouts/step_{of:06d}.jsonl", f"index/rollouts/step_{of:06d}.jsonl"):
            source = self.folder / name
            for step in steps:
                shutil.copyfile(source, source.with_name(f"step_{step:06d}.jsonl"))
        for step in steps:
            self.log.metrics(step, {"reward/total/mean": step / (step + 50)})

    def _group(self, sample: Sample, step: int, rng: random.Random, n: int = 0) -> Group:
        skill = 1 - 0.8 / (1 + step / 10)
        return Group(sample, range(20), [_rollout(sample, skill, rng) for _ in range(n or self.n)])

    def _score(self, groups: Sequence[Group], step: int) -> None:
        scoring = self.rubric.begin(step)
        for group in groups:
            for i, rollout in enumerate(group.rollouts):
                scoring.add(group.sample, i, rollout)
        scoring.finish()
        for group in groups:
            totals = [r.total or 0.0 for r in group.rollouts]
            spread = statistics.stdev(totals) if len(totals) > 1 else 0.0
            for rollout, total in zip(group.rollouts, totals, strict=True):
                rollout.advantage = (total - statistics.fmean(totals)) / (spread or 1.0)


def _samples(folder: Path, count: int) -> list[Sample]:
    """Pictures and clips with a question on each attribute; files that are there are left."""
    clip = folder / "clip.mp4"
    if not clip.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_mp4(clip, moving_square(20), fps=10)
        for colour in COLOURS:
            write_png(folder / f"{colour}.png", color=colour)
    rng = random.Random("samples")
    return [_sample(folder, number, rng) for number in range(count)]


def _sample(folder: Path, number: int, rng: random.Random) -> Sample:
    true = {name: rng.choice(values) for name, values in ASKED.items()}
    is_video = number % 3 == 0
    path = folder / ("clip.mp4" if is_video else f"{true['colour']}.png")
    kind = "video" if is_video else "image"
    text = {"type": "text", "text": "Describe what you see."}
    return Sample(
        id=f"sample-{number:05d}",
        media=(MediaRef("video" if is_video else "image", str(path)),),
        messages=({"role": "user", "content": [{"type": kind}, text]},),
        questions=tuple(
            Question(f"Which {name} is it?", values, values.index(true[name]))
            for name, values in ASKED.items()
        ),
        source=f"made.jsonl:{number + 1}",
        seconds=SECONDS if is_video else None,
    )


def _rollout(sample: Sample, skill: float, rng: random.Random) -> Rollout:
    """A caption that mentions an attribute as often as the skill says, and some wrongly."""
    said = []
    for question in sample.questions:
        right = question.choices[question.answer]
        if rng.random() < skill:
            said.append(right if rng.random() < 0.85 else rng.choice(question.choices))
    rng.shuffle(said)
    is_video = sample.modality == "video"
    times = [f"[00:{i % 3:02d}] " if is_video else "" for i in range(len(said))]
    text = " ".join(f"{t}There is something {word}." for t, word in zip(times, said, strict=True))
    text = text or "Nothing can be told."
    cut_off = rng.random() < 0.04
    tokens = list(range(len(text.split()) + 1))
    return Rollout(tokens, [-0.5] * len(tokens), "length" if cut_off else "stop", text)


class _WordReader:
    """Believes in the choice that a caption mentions; of several, in each alike."""

    collective = False

    def ask(self, asks: Sequence[Ask]) -> list[Future[Answer]]:
        return [_answered(one) for one in asks]

    def work(self) -> None: ...
    def finish(self) -> None: ...
    def reset(self) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


def _answered(ask: Ask) -> Future[Answer]:
    content = str(ask.messages[-1]["content"]).partition("Question:")[0]
    named = [choice in content for choice in ask.choices]
    named = named if any(named) else [i == len(named) - 1 for i in range(len(named))]
    weights = [20.0 if hit else 1.0 for hit in named]
    future: Future[Answer] = Future()
    future.set_result(Answer(None, probabilities=tuple(w / sum(weights) for w in weights)))
    return future
