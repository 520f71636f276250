"""A small world of media and questions, and a server that captions and answers like a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from caprl_native.testing.chat_server import Reply, Request
from caprl_native.testing.media_files import write_mp4, write_noise

WORDS = ("red", "green", "blue", "large", "small", "left", "right", "striped")


def write_world(folder: Path, images: int, videos: int, questions: int = 2) -> Path:
    """PNG and MP4 files of noise with made-up questions on them, in the trainer's format."""
    records = []
    for i in range(images + videos):
        kind = "image" if i < images else "video"
        name = f"{kind}{i}.{'png' if kind == 'image' else 'mp4'}"
        if kind == "image":
            write_noise(folder / name, seed=i)
        else:
            write_mp4(folder / name, frames=6 + 2 * i)
        asked = [
            {"question": f"What is it like ({i}, {j})?", "choices": list(WORDS[:4]), "answer": "A"}
            for j in range(questions)
        ]
        records.append({"id": f"s{i}", kind: name, "questions": asked})
    file = folder / "world.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def answer(request: Request) -> Reply:
    """A caption for media, a letter for a question: functions of what was asked and of the seed."""
    text, media = spoken(request["messages"])
    number = int(hashlib.sha256(f"{text}{media}{request['seed']}".encode()).hexdigest(), 16)
    if media:
        chosen = [WORDS[number >> 3 * i & 7] for i in range(4)]
        return Reply(f"<0.0 seconds> {' '.join(chosen)}")
    return Reply(f" {'ABCDE'[number % 5]}")


def spoken(messages: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """All text of a chat, and its data URLs."""
    text, media = [], []
    for turn in messages:
        parts = turn["content"]
        for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
            if part["type"] == "text":
                text.append(part["text"])
            else:
                media.append(part[part["type"]]["url"])
    return "\n".join(text), media
