"""Is the demo's reader a real reader, does its policy see? Measured through the real engine."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import EngineConfig, ReaderConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.loader import LoadedSample, eval_batches
from caprl_native.data.records import read_records
from caprl_native.policy.prompt import PromptBuilder, processor_kwargs
from caprl_native.rewards.prompts import CANNOT_ANSWER, LETTERS, reader_messages
from caprl_native.rewards.questions import ShownQuestion, read_answer
from caprl_native.rewards.readers.base import Ask, answers_to
from caprl_native.rewards.readers.engine import EngineReader
from caprl_native.rollout.captioner import Captioner
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.testing.demo_world.scenes import (
    FULL_PROMPTS,
    PROMPTS,
    Modality,
    Quiz,
    Scene,
    answerable,
    caption,
    mentions,
    quiz,
    sample_scene,
)

Means = dict[str, float]


@dataclass
class Tally:
    """Means by name."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, value: float) -> None:
        self.values[name].append(float(value))

    def means(self) -> Means:
        return {name: sum(v) / len(v) for name, v in self.values.items()}


def open_reader(path: str | Path, temperature: float = 0.6) -> EngineReader:
    """The reader as the demo runs it."""
    return EngineReader(
        ReaderConfig(
            path=str(path),
            dtype="float32",
            temperature=temperature,
            max_tokens=10,
            max_model_len=512,
            kv_cache_gib=0.5,
        )
    )


def _answers(reader: EngineReader, asked: Sequence[tuple[Modality, str, Quiz]]) -> list[int | None]:
    """The index that the reader chose for each (modality, caption, quiz); the last: cannot tell."""
    shown = [
        ShownQuestion(q.question, (*q.choices, CANNOT_ANSWER), LETTERS[:5], LETTERS[q.answer], "E")
        for _, _, q in asked
    ]
    asks = [
        Ask(reader_messages(modality, text, q.question, list(q.choices)), seed=i)
        for i, ((modality, text, _), q) in enumerate(zip(asked, shown, strict=True))
    ]
    answers = zip(answers_to(reader, asks), shown, strict=True)
    letters = [read_answer(answer.text or "", q) for answer, q in answers]
    return [None if letter is None else LETTERS.index(letter) for letter in letters]


def check_reader(reader: EngineReader, scenes: int = 64, seed: int = 1) -> Means:
    """Shares of fresh scenes' questions; `complete` and `other`: right, `empty`: cannot tell.

    `told` and `untold`: right, and cannot tell, on captions with half of the attributes.
    """
    rng = random.Random(f"check-{seed}")
    asked: list[tuple[Modality, str, Quiz]] = []
    wanted: list[tuple[str, int]] = []  # name of the share, the index that counts for it
    for _ in range(scenes):
        scene = sample_scene(rng.choice(["image", "video"]), rng)
        other = sample_scene(scene.modality, rng)
        half = rng.sample(list(scene.values), len(scene.values) // 2)
        texts = {
            "complete": caption(scene, scene.values, rng),
            "empty": "",
            "other": caption(other, other.values, rng),
            "half": caption(scene, half, rng),
        }
        known = answerable(scene, half)
        for name, text in texts.items():
            for a in scene.attributes:
                q = quiz(scene, a, rng)
                cannot = name == "empty" or (name == "half" and a.name not in known)
                asked.append((scene.modality, text, q))
                share = ("untold" if cannot else "told") if name == "half" else name
                wanted.append((share, len(q.choices) if cannot else q.answer))
                if name == "complete":
                    asked.append((scene.modality, text, q))
                    wanted.append((f"complete/{scene.modality}/{a.name}", q.answer))
    tally = Tally()
    for (name, index), answer in zip(wanted, _answers(reader, asked), strict=True):
        tally.add(name, answer == index)
    return tally.means()


@dataclass
class Painter:
    """The policy's engine with the scenes of a `demo_world.datasets.write_world` file."""

    path: Path
    file: Path
    media: MediaConfig = field(default_factory=MediaConfig)
    limit: int = 0

    def __post_init__(self) -> None:
        import json

        rows = [json.loads(line) for line in self.file.read_text().splitlines()]
        self.scenes = {
            r["id"]: Scene("image" if "image" in r else "video", r["scene"]) for r in rows
        }
        self.engine = Engine(
            EngineSettings(
                EngineConfig(
                    max_model_len=512,
                    max_num_seqs=128,
                    kv_cache_gib=0.5,
                    gpu_memory_utilization=0.3,
                ),
                path=str(self.path),
                dtype="float32",
                media_per_prompt=1,
                mm_processor_kwargs=processor_kwargs(str(self.path), self.media),
            )
        )

    def captions(self, full: bool = False, temperature: float = 0.0) -> list[tuple[Scene, str]]:
        """A caption of each scene; `full`: with the prompt that asks for everything."""
        found = []
        for modality, prompt in (FULL_PROMPTS if full else PROMPTS).items():
            records = read_records([self.file], prompt_override=prompt)
            data = DataConfig(batch_size=64, workers=0)
            prepare = PromptBuilder(str(self.path), self.media, data.max_prompt_tokens)
            sampling = Sampling(temperature=temperature, max_tokens=64)
            captioner = Captioner(self.engine, sampling, seed=0)
            for batch in eval_batches(
                records, data, self.media, shard=0, num_shards=1, prepare=prepare, limit=self.limit
            ):
                kept = [
                    i
                    for i in batch
                    if isinstance(i, LoadedSample) and i.sample.modality == modality
                ]
                for group in captioner.write(kept, step=0) if kept else ():
                    found.append((self.scenes[group.sample.id], group.rollouts[0].text))
        return found


def recognition(captions: Sequence[tuple[Scene, str]]) -> Means:
    """Share of right mentions by "modality/attribute", over the captions that mention it."""
    tally = Tally()
    for scene, text in captions:
        for name, right in mentions(scene, text).items():
            tally.add(f"{scene.modality}/{name}", right)
            tally.add("all", right)
    return tally.means()


def richness(captions: Sequence[tuple[Scene, str]]) -> dict[str, Any]:
    """Attributes that are mentioned per caption: mean, histogram; mean length in words."""
    counts = [len(mentions(scene, text)) for scene, text in captions]
    words = [len(text.split()) for _, text in captions]
    return {
        "mentioned": sum(counts) / len(counts),
        "histogram": [counts.count(k) for k in range(10)],
        "words": sum(words) / len(words),
    }


def accuracy(reader: EngineReader, captions: Sequence[tuple[Scene, str]], seed: int = 0) -> Means:
    """Share of all questions that the reader answers rightly from the captions, by modality."""
    rng = random.Random(f"accuracy-{seed}")
    asked = [
        (scene, text, quiz(scene, a, rng)) for scene, text in captions for a in scene.attributes
    ]
    tally = Tally()
    answers = _answers(reader, [(s.modality, text, q) for s, text, q in asked])
    for (scene, _, q), answer in zip(asked, answers, strict=True):
        tally.add(scene.modality, answer == q.answer)
        tally.add("all", answer == q.answer)
    return tally.means()
