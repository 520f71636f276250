"""Images and videos by the ends of their names."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

# fmt: off
IMAGES = frozenset({
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm",
    ".jp2", ".qoi", ".ico",
})
VIDEOS = frozenset({
    ".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv",
    ".flv", ".3gp", ".ogv", ".mxf", ".vob",
})
# fmt: on
LISTS = frozenset({".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".lst", ".list"})
TARS = (".tar", ".tar.gz", ".tgz")


def kind_of_name(name: str) -> Literal["image", "video"] | None:
    """What a file of this name is taken for; None: neither."""
    end = PurePath(name).suffix.lower()
    return "image" if end in IMAGES else "video" if end in VIDEOS else None
