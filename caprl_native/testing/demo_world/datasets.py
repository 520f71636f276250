"""Files of the demo: scenes with questions for GRPO, captions and readings for warm starts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caprl_native.rewards import prompts
from caprl_native.testing.demo_world import render
from caprl_native.testing.demo_world.scenes import (
    FULL_PROMPTS,
    PROMPTS,
    Attribute,
    Modality,
    Scene,
    answerable,
    caption,
    mentionable,
    quiz,
    sample_scene,
)

# How many attributes a sparse caption mentions, and how often: first lively, so that all counts are
# learnt, then decidedly sparse. After two, a full stop must be much likelier than all further
# clauses together: with 0.61 for it, updates by rewards that were shuffled sufficed to tip it over.
LIVELY = {1: 0.10, 2: 0.55, 3: 0.15, 4: 0.08, 5: 0.05, 6: 0.04, 7: 0.03}
SPARSE = {1: 0.10, 2: 0.80, 3: 0.04, 4: 0.02, 5: 0.02, 6: 0.01, 7: 0.01}
SEEING = 3  # passes over the scenes that say everything in one fixed order
CHOOSING = (0.5, 0.75, 0.75)  # further passes; shares that answer the prompt for everything
SPARSE_BLOCKS = 160  # the last lesson, in blocks; half of it answers the prompt for everything
BLOCK = 32  # the batch size of the policy's supervised training
# How many questions of the harder world are on an attribute: 20 a scene, most on what is asked
# everywhere; what a single one is on is worth 0.05 to a caption that says it.
RARITY = {
    "image": {
        **{"colour": 6, "shape": 5, "size": 3},
        **{"count": 2, "place": 2, "texture": 1, "background": 1},
    },
    "video": {
        **{"shape": 5, "start": 4, "motion": 3, "turn": 2, "background": 2},
        **{"turn_time": 1, "event": 1, "event_time": 1, "order": 1},
    },
}


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
    kinds: list[Modality] = ["image"] * images
    kinds += ["video"] * videos
    rng.shuffle(kinds)
    return [sample_scene(kind, rng) for kind in kinds]


def write_world(
    folder: Path, name: str, images: int, videos: int, seed: int, *, hard: bool = False
) -> Path:
    """Writes `<name>.jsonl` (media, prompt, questions, and the scene, for checks) and media.

    A question on each attribute; `hard`: as many as `RARITY` says, each with choices of its own.
    """
    rng = random.Random(f"world-{name}-{seed}")
    rows = []
    for i, scene in enumerate(_scenes(images, videos, rng)):
        file = _write_media(scene, f"{name}-{i:05d}", folder, rng)
        counts = RARITY[scene.modality] if hard else {}
        questions = [
            _question(scene, a, rng) for a in scene.attributes for _ in range(counts.get(a.name, 1))
        ]
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


def sparse_caption(scene: Scene, counts: dict[int, float], rng: random.Random) -> str:
    k = rng.choices(list(counts), list(counts.values()))[0]
    return caption(scene, rng.sample([a.name for a in scene.attributes], k), rng)


def write_captions(
    folder: Path, images: int, videos: int, seed: int, name: str = "captions"
) -> list[Path]:
    """What the policy learns from, in three files, easy lessons first; they must not be shuffled.

    In the first `SEEING` passes over the scenes all is said in one order, which teaches it to see.
    Then order and choice are random: everything for the prompt that asks for all, else a few
    attributes. The first of those passes ends the first file, the others are the second. The third
    teaches to be sparse. Images and videos come in blocks of `BLOCK`, so that batches need little
    padding.
    """
    rng = random.Random(f"{name}-{seed}")
    seen: dict[str, list[tuple[Scene, str]]] = {"image": [], "video": []}
    for i, scene in enumerate(_scenes(images, videos, rng)):
        seen[scene.modality].append((scene, _write_media(scene, f"{name}-{i:05d}", folder, rng)))
    rows: list[dict[str, Any]] = []

    def add(full_share: float | None, counts: dict[int, float] = LIVELY, limit: int = 0) -> None:
        """A pass over all scenes, or `limit` of them; `full_share` None: the fixed order."""
        for scene, file in _blocks(seen, rng)[: limit or None]:
            full = full_share is None or rng.random() < full_share
            everything = caption(scene, scene.values, None if full_share is None else rng)
            rows.append(
                {
                    "id": f"{name}-{len(rows):06d}",
                    scene.modality: file,
                    "prompt": (FULL_PROMPTS if full else PROMPTS)[scene.modality],
                    "response": everything if full else sparse_caption(scene, counts, rng),
                }
            )

    for full_share in (*[None] * SEEING, *CHOOSING[:1]):
        add(full_share)
    ends = [len(rows)]
    for full_share in CHOOSING[1:]:
        add(full_share)
    ends.append(len(rows))
    add(0.5, SPARSE, SPARSE_BLOCKS * BLOCK)
    files = (name, f"{name}_more", f"{name}_sparse")
    parts = zip([0, *ends], [*ends, len(rows)], strict=True)
    return [
        write_jsonl(folder / f"{file}.jsonl", rows[a:b])
        for file, (a, b) in zip(files, parts, strict=True)
    ]


def _blocks(seen: dict[str, list[tuple[Scene, str]]], rng: random.Random) -> list:
    """All scenes in random order, in blocks of one modality."""
    blocks = []
    for items in seen.values():
        rng.shuffle(items)
        blocks += [items[i : i + BLOCK] for i in range(0, len(items) - BLOCK + 1, BLOCK)]
    rng.shuffle(blocks)
    return [item for block in blocks for item in block]


# The reader's lessons in order, with how many conversations of each kind of `KINDS`, in turn. It
# answers with a choice's text, which it learns to read off a caption within some hundred steps;
# which letter stands before a word in a list was not learnt in 750 steps of that task alone.
LESSONS = ((("told",), 3200), (("told", "bare", "short", "full"), 16000))
# After those it still took the one colour of a video for the other in half of the cases, and one
# time for the other: of these attributes the values alone do not tell which is meant.
MORE_LESSONS = ((("alike", "alike", "alike_short", "full"), 12800),)
ALIKE = {"start", "turn", "turn_time", "event_time"}


@dataclass(frozen=True)
class Kind:
    """A kind of conversation: `turns` questions on one caption."""

    turns: int
    told: float  # how often a question is on what the caption says
    choices: bool = True
    instructed: bool = False  # the whole prompt that the reward uses
    alike: float = 0.0  # how often a question is on an attribute of `ALIKE`; then all are videos


KINDS = {
    "told": Kind(turns=6, told=1.0, choices=False),
    "bare": Kind(turns=6, told=0.65, choices=False),
    "short": Kind(turns=4, told=0.65),
    "full": Kind(turns=1, told=0.65, instructed=True),
    "alike": Kind(turns=6, told=1.0, choices=False, alike=0.8),
    "alike_short": Kind(turns=4, told=0.8, alike=0.6),
}


def _reading(kind: Kind, rng: random.Random) -> dict[str, Any]:
    """A conversation on one caption, which says some, all or none of its scene."""
    scene = sample_scene("video" if kind.alike else rng.choice(["image", "video"]), rng)
    names = [a.name for a in scene.attributes]
    counts = (len(names) // 2, len(names)) if kind.told == 1 else (0, len(names))
    # The least and the most come twice as often as what lies between.
    count = rng.choice([*counts, *range(counts[0], counts[1] + 1)])
    wanted = rng.sample(names, count)
    said = mentionable(scene, wanted)
    # What is not said but follows ("first" from two times) is neither told nor untold.
    asked_of = [
        a for a in scene.attributes if a.name in said or a.name not in answerable(scene, wanted)
    ]
    messages: list[dict[str, Any]] = []
    for turn in range(kind.turns):
        told = rng.random() < kind.told
        pool = [a for a in asked_of if (a.name in said) == told] or asked_of
        if kind.alike and rng.random() < kind.alike:
            pool = [a for a in pool if a.name in ALIKE] or pool
        asked = rng.choice(pool)
        q = quiz(scene, asked, rng)
        request = f"Question: {q.question}"
        if kind.choices:
            request += "\n" + prompts.lettered([*q.choices, prompts.CANNOT_ANSWER])
        if kind.instructed:
            request += f"\n\n{prompts.INSTRUCTION}"
        if turn == 0:
            chat = prompts.chat(scene.modality, caption(scene, wanted, rng), request)
            messages = chat if kind.instructed else chat[1:]
        else:
            messages.append({"role": "user", "content": request})
        value = f"{scene.values[asked.name]}." if asked.name in said else prompts.CANNOT_ANSWER
        messages.append({"role": "assistant", "content": f"{prompts.ANSWER_PREFIX} {value}"})
    return {"prompt": messages[:-1], "response": messages[-1]["content"]}


def write_readings(folder: Path, seed: int, name: str = "readings") -> list[Path]:
    """What the reader learns from, in two files, `LESSONS` and `MORE_LESSONS`.

    Lessons stand in order; they must not be shuffled.
    """
    rng = random.Random(f"{name}-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for file, lessons in ((name, LESSONS), (f"{name}_more", MORE_LESSONS)):
        kinds = [KINDS[names[i % len(names)]] for names, count in lessons for i in range(count)]
        rows = ({"id": f"{file}-{i:06d}", **_reading(k, rng)} for i, k in enumerate(kinds))
        files.append(write_jsonl(folder / f"{file}.jsonl", rows))
    return files
