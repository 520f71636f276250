"""Long videos that are cut into segments: real clips with subtitles burnt in, crops of faces, maps
of faces, and the records of TaskMem's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from caprl_native.testing.media_files import write_mp4, write_png

ASKED = "Faces are named. [Description of the preceding part]: {}\n\nSay what is new."
COLOURS = ("red", "green", "blue", "yellow", "purple")


def write_clip(file: Path, index: int, subtitle: str, frames: int = 8) -> Path:
    """A scene of one colour in which a square wanders."""
    pictures = []
    for t in range(frames):
        picture = Image.new("RGB", (64, 64), COLOURS[index % len(COLOURS)])
        draw = ImageDraw.Draw(picture)
        draw.rectangle((4 + 5 * t, 16, 20 + 5 * t, 32), fill="white")
        draw.text((4, 50), subtitle, fill="white")
        pictures.append(np.asarray(picture))
    return write_mp4(file, pictures, fps=4.0)


def face_maps(segments: int) -> dict[str, dict[str, str]]:
    """Face 0 of the video is in all segments, under another number in each; one more in each."""
    return {
        str(i): {"[face_0]": f"<face_{1 + i % 2}>", f"[face_{i + 1}]": f"<face_{2 - i % 2}>"}
        for i in range(segments)
    }


def write_rows(
    folder: Path,
    videos: dict[str, int],
    *,
    clips: bool = False,
    stages: int = 1000,
    more: dict[str, Any] | None = None,
) -> Path:
    """Records of videos with so many segments; step = segment, at most stages - 1."""
    rows = []
    for video, segments in videos.items():
        place = folder / "maps" / video
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{video}_map.json").write_text(json.dumps(face_maps(segments)))
        for i in range(segments):
            parts: list[dict[str, Any]] = []
            if clips:
                clip = write_clip(folder / video / f"{i}.mp4", i, f"{video} {i}")
                parts.append({"type": "video", "video": str(clip.relative_to(folder))})
            face = write_png(folder / video / f"{i}_face.png", (40, 40), COLOURS[i % 5])
            parts += [
                {"type": "text", "text": "<face_1>: "},
                {"type": "image", "image": str(face.relative_to(folder))},
                {"type": "text", "text": ASKED},
            ]
            row = {"id": f"{video}*{i}", "type": "episodic_on_policy", "step": min(i, stages - 1)}
            rows.append(row | {"video_idx": i, "episodic_folder": "maps", "input": parts})
    rows += (more or {}).get("rows", [])
    file = folder / "segments.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
