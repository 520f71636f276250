"""Captions of the demo's world to try attacks on, without any media file."""

from __future__ import annotations

import random

from caprl_native.rewards.laboratory.subjects import Subject
from caprl_native.testing.demo_world.render import FPS, FRAMES
from caprl_native.testing.demo_world.scenes import Modality, caption, quiz, sample_scene
from caprl_native.types import MediaRef, Question, Sample


def demo_subjects(images: int, videos: int, seed: int = 0, mentioned: int = 0) -> list[Subject]:
    """Scenes with a question on each attribute, and captions that mention all attributes.

    So does a policy that has been trained. `mentioned`: only so many, drawn at random.
    """
    rng = random.Random(f"subjects-{seed}")
    kinds: list[Modality] = ["image"] * images
    kinds += ["video"] * videos
    return [_subject(kind, f"{kind}-{i}", mentioned, rng) for i, kind in enumerate(kinds)]


def _subject(kind: Modality, name: str, mentioned: int, rng: random.Random) -> Subject:
    scene = sample_scene(kind, rng)
    quizzes = [quiz(scene, a, rng) for a in scene.attributes]
    names = [a.name for a in scene.attributes]
    sample = Sample(
        id=name,
        media=(MediaRef("video" if kind == "video" else "image", f"{name}.media"),),
        messages=(),
        questions=tuple(Question(q.question, q.choices, q.answer) for q in quizzes),
        source="demo world",
        seconds=FRAMES / FPS if kind == "video" else None,
    )
    wanted = rng.sample(names, mentioned) if mentioned else names
    return Subject(sample, caption(scene, wanted, rng))
