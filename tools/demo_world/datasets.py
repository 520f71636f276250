"""Files of the demo: scenes with questions for GRPO, captions and readings for supervised training."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from caprl_native.rewards import prompts
from demo_world import render
from demo_world.scenes import (
    FULL_PROMPTS,
    PROMPTS,
    Attribute,
    Scene,
    answerable,
    caption,
    quiz,
    sample_scene,
)

# How many attributes a sparse caption mentions, and how often; the rest of the weight goes to more.
SPARSE = {1: 0.14, 2: 0.40, 3: 0.18, 4: 0.10, 5: 0.07, 6: 0.06, 7: 0.05}
SEEING_SHARE = 0.6  # of the captions to learn from: everything in a fixed order
FULL_SHARE = 0.5  # of the others, those that answer the prompt for everything


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path


def _write_media(scene: Scene, name: str, folder: Path, rng: random.Random) -> str:
    """Draws the scene into `folder`; returns the file's name relative to it."""
    (folder / scene.modality).mkdir(parents=True, exist_ok=True)
    if scene.modality == "image":
        file = f"image/{name}.png"
        render.write_png(folder / file, render.draw_image(scene, rng))
    else:
        file = f"video/{name}.mp4"
        render.write_mp4(folder / file, render.draw_video(scene, rng))
    return file


def _scenes(images: int, videos: int, rng: random.Random) -> list[Scene]:
    kinds = ["image"] * images + ["video"] * videos
    rng.shuffle(kinds)
    return [sample_scene(kind, rng) for kind in kinds]


def write_world(folder: Path, name: str, images: int, videos: int, seed: int) -> Path:
    """Writes `<name>.jsonl` (media, prompt, questions, and the scene for whoever checks) and media."""
    rng = random.Random(f"world-{name}-{seed}")
    rows = []
    for i, scene in enumerate(_scenes(images, videos, rng)):
        file = _write_media(scene, f"{name}-{i:05d}", folder, rng)
        questions = [_question(scene, a, rng) for a in scene.attributes]
        rows.append(
            {
                "id": f"{name}-{i:05d}",
                scene.modality: file,
                "prompt": PROMPTS[scene.modality],
                "questions": questions,
                "scene": scene.values,
            }
        )
    return write_jsonl(folder / f"{name}.jsonl", rows)


def _question(scene: Scene, attribute: Attribute, rng: random.Random) -> dict[str, Any]:
    q = quiz(scene, attribute, rng)
    lines = prompts.lettered(list(q.choices)).splitlines()
    return {"question": q.question, "choices": lines, "answer": prompts.LETTERS[q.answer]}


def sparse_caption(scene: Scene, rng: random.Random) -> str:
    k = rng.choices(list(SPARSE), list(SPARSE.values()))[0]
    return caption(scene, rng.sample([a.name for a in scene.attributes], k), rng)


def write_captions(
    folder: Path, images: int, videos: int, seed: int, name: str = "captions"
) -> Path:
    """What the policy learns from, easy lessons first; it must not be shuffled.

    The first part says everything in one fixed order, which teaches it to see. Then order and
    choice are random: everything for the prompt that asks for all, else a few attributes.
    """
    rng = random.Random(f"{name}-{seed}")
    scenes = _scenes(images, videos, rng)
    rows = []
    for i, scene in enumerate(scenes):
        file = _write_media(scene, f"{name}-{i:05d}", folder, rng)
        see = i < SEEING_SHARE * len(scenes)
        full = see or rng.random() < FULL_SHARE
        prompt = (FULL_PROMPTS if full else PROMPTS)[scene.modality]
        everything = caption(scene, scene.values, None if see else rng)
        text = everything if full else sparse_caption(scene, rng)
        rows.append(
            {"id": f"{name}-{i:05d}", scene.modality: file, "prompt": prompt, "response": text}
        )
    return write_jsonl(folder / f"{name}.jsonl", rows)


# The reader's lessons in order, with their shares. Short sequences teach it to look a word up and to name its letter; with the whole prompt from the start the same takes
# several times as long.
LESSONS = (("lookup", 0.45), ("unknown", 0.25), ("full", 0.30))


def _reading(lesson: str, rng: random.Random) -> dict[str, Any]:
    """One supervised turn of the reader: a letter, a word, or "which letter is red?".

    "lookup": short captions, questions on what they say; "unknown": also on what they leave out;
    "full": the prompt that the reward uses.
    """
    scene = sample_scene("image" if rng.random() < 0.5 else "video", rng)
    names = [a.name for a in scene.attributes]
    sizes = (1, 2, 3) if lesson == "lookup" else (0, len(names), *range(len(names) + 1))
    wanted = rng.sample(names, rng.choice(sizes))
    text = caption(scene, wanted, rng)
    known = answerable(scene, wanted)
    about_known = lesson == "lookup" or rng.random() < 0.6
    pool = [a for a in scene.attributes if (a.name in known) == about_known]
    asked = rng.choice(pool or list(scene.attributes))
    # Now and then a question on another scene, so that what is told may be none of the choices.
    other = lesson != "lookup" and rng.random() < 0.12
    q = quiz(sample_scene(scene.modality, rng) if other else scene, asked, rng)
    value = scene.values[asked.name]
    told = asked.name in known
    task = rng.random() + (0.25 if lesson == "full" else 0.0)
    if task < 0.35:
        request = f"Question: {q.question}"
        return _turn(scene, text, request, value if told else "unknown", lesson)
    shown = list(q.choices) + ([] if lesson == "lookup" else [prompts.CANNOT_ANSWER])
    if task < 0.5:
        i = rng.randrange(len(q.choices))
        request = f"{prompts.lettered(shown)}\n\nWhich letter is {q.choices[i]}?"
        return _turn(scene, text, request, prompts.LETTERS[i], lesson)
    right = q.choices.index(value) if told and value in q.choices else len(q.choices)
    request = f"Question: {q.question}\n{prompts.lettered(shown)}"
    if lesson == "full":
        request += f"\n\n{prompts.INSTRUCTION}"
    return _turn(scene, text, request, prompts.LETTERS[right], lesson)


def _turn(scene: Scene, text: str, request: str, answer: str, lesson: str) -> dict[str, Any]:
    messages = prompts.chat(scene.modality, text, request)
    if lesson != "full":
        messages = messages[1:]  # without the system turn
    return {"prompt": messages, "response": f"{prompts.ANSWER_PREFIX} {answer}"}


def write_readings(folder: Path, count: int, seed: int, name: str = "readings") -> Path:
    """What the reader learns from, in the order of `LESSONS`; it must not be shuffled."""
    rng = random.Random(f"{name}-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    lessons = [lesson for lesson, share in LESSONS for _ in range(round(count * share))]
    rows = ({"id": f"{name}-{i:06d}", **_reading(l, rng)} for i, l in enumerate(lessons))
    return write_jsonl(folder / f"{name}.jsonl", rows)


def reader_texts() -> list[str]:
    """Words of the reader's further tasks."""
    return ["Which letter is unknown?"]
