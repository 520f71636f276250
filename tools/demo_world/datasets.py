"""Files of the demo: scenes with questions for GRPO, captions and readings for warm starts."""

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
    IMAGE,
    PROMPTS,
    VIDEO,
    Attribute,
    Scene,
    answerable,
    caption,
    quiz,
    sample_scene,
)

# How many attributes a sparse caption mentions, and how often; the rest of the weight goes to more.
SPARSE = {1: 0.14, 2: 0.40, 3: 0.18, 4: 0.10, 5: 0.07, 6: 0.06, 7: 0.05}
SEEING = 3  # passes over the scenes that teach to see
BLOCK = 32  # the batch size of the policy's supervised training
UNKNOWN_WORD = "unknown"  # what the reader says for a value that it was not told
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
    """Writes `<name>.jsonl` (media, prompt, questions, and the scene, for checks) and media."""
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

    `SEEING` passes over the scenes say everything in one fixed order, which teaches it to see. Then
    order and choice are random: everything for the prompt that asks for all, else a few attributes.
    Images and videos come in blocks of `BLOCK`, so that batches need little padding.
    """
    rng = random.Random(f"{name}-{seed}")
    seen: dict[str, list[tuple[Scene, str]]] = {"image": [], "video": []}
    for i, scene in enumerate(_scenes(images, videos, rng)):
        seen[scene.modality].append((scene, _write_media(scene, f"{name}-{i:05d}", folder, rng)))
    rows = []
    for choosing in [False] * SEEING + [True]:
        for scene, file in _blocks(seen, rng):
            full = not choosing or rng.random() < FULL_SHARE
            everything = caption(scene, scene.values, rng if choosing else None)
            rows.append(
                {
                    "id": f"{name}-{len(rows):06d}",
                    scene.modality: file,
                    "prompt": (FULL_PROMPTS if full else PROMPTS)[scene.modality],
                    "response": everything if full else sparse_caption(scene, rng),
                }
            )
    return write_jsonl(folder / f"{name}.jsonl", rows)


def _blocks(seen: dict[str, list[tuple[Scene, str]]], rng: random.Random) -> list:
    """All scenes in random order, in blocks of one modality."""
    blocks = []
    for items in seen.values():
        rng.shuffle(items)
        blocks += [items[i : i + BLOCK] for i in range(0, len(items) - BLOCK + 1, BLOCK)]
    rng.shuffle(blocks)
    return [item for block in blocks for item in block]


# The reader's lessons in order, with their shares. It answers with a word and then its letter
# ("red, C"): the word is looked up in the caption, the letter in the choices. Each alone is learnt
# in a few hundred steps; the letter straight from the caption was still at chance after 600.
LESSONS = (("letters", 0.25), ("lookup", 0.25), ("unknown", 0.2), ("full", 0.3))
WORDS = tuple(dict.fromkeys(v for a in (*IMAGE, *VIDEO) for v in a.values)) + (UNKNOWN_WORD,)


def _letters(rng: random.Random) -> dict[str, Any]:
    """Which letters do words have? All of a list at once: many small lessons in one."""
    words = rng.sample(WORDS, rng.randint(4, 10))
    request = "Which letters?\n" + prompts.lettered(words)
    pairs = [f"{word}, {letter}" for word, letter in zip(words, prompts.LETTERS, strict=False)]
    rng.shuffle(pairs)
    return _turn([{"role": "user", "content": request}], " ".join(pairs))


def _reading(lesson: str, rng: random.Random) -> dict[str, Any]:
    """One supervised turn of the reader.

    "letters": which letters words have; "lookup": questions on what short captions say; "unknown":
    also on what captions leave out; "full": the prompt that the reward uses.
    """
    if lesson == "letters":
        return _letters(rng)
    scene = sample_scene("image" if rng.random() < 0.5 else "video", rng)
    names = [a.name for a in scene.attributes]
    sizes = (1, 1, 2, 3) if lesson == "lookup" else (0, len(names), *range(len(names) + 1))
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
    shown = [*q.choices, prompts.CANNOT_ANSWER]
    told = asked.name in known and value in q.choices
    letter = prompts.LETTERS[q.choices.index(value) if told else len(q.choices)]
    request = f"Question: {q.question}\n{prompts.lettered(shown)}"
    if lesson == "full":
        request += f"\n\n{prompts.INSTRUCTION}"
    messages = prompts.chat(scene.modality, text, request)
    answer = f"{value if told else UNKNOWN_WORD}, {letter}"
    return _turn(messages if lesson == "full" else messages[1:], answer)


def _turn(messages: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    return {"prompt": messages, "response": f"{prompts.ANSWER_PREFIX} {answer}"}


def write_readings(folder: Path, count: int, seed: int, name: str = "readings") -> Path:
    """What the reader learns from, in the order of `LESSONS`; it must not be shuffled."""
    rng = random.Random(f"{name}-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    lessons = [lesson for lesson, share in LESSONS for _ in range(round(count * share))]
    rows = ({"id": f"{name}-{i:06d}", **_reading(lesson, rng)} for i, lesson in enumerate(lessons))
    return write_jsonl(folder / f"{name}.jsonl", rows)


def reader_texts() -> list[str]:
    """Words of the reader's further tasks."""
    return ["Which letters?", UNKNOWN_WORD]
