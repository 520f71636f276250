"""Results on disk: a JSON line per caption, answer or judgement, appended as soon as it is there.

Each has a key made of all that it depends on: model, prompt, media, settings, seed. What is in the
file need not be made again, and a changed setting finds nothing under its own keys. A line that a
kill cut short is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_BLOCK, _BLOCKS = 1 << 16, 16  # of a weight file, in a fingerprint


def key_of(*parts: Any) -> str:
    """24 hexadecimal digits that stand for the parts (anything JSON can hold)."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def fingerprint(folder: str) -> str:
    """Of a model directory: its small files, and evenly spaced blocks of its weights."""
    digest = hashlib.blake2b(digest_size=12)
    for file in sorted(Path(folder).iterdir()):
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        step = max(_BLOCK, size // _BLOCKS)
        with file.open("rb") as opened:
            for start in range(0, size, step):
                opened.seek(start)
                digest.update(opened.read(_BLOCK))
            opened.seek(max(0, size - _BLOCK))
            digest.update(opened.read(_BLOCK))
    return digest.hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a model wrote, or why it did not."""

    text: str | None = None
    tokens: int | None = None
    finish: str | None = None  # "stop" or "length"
    failure: str | None = None


class Store:
    """The replies of one stage by key; of several under a key the last counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, Reply] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        for key, reply in self._read():
            self.replies[key] = reply

    def _read(self) -> Iterator[tuple[str, Reply]]:
        """What is there; what follows the last complete line is cut off."""
        self._file.seek(0)
        kept = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            kept += len(line)
            record = json.loads(line)
            yield record.pop("key"), Reply(**record)
        if kept < self._file.seek(0, os.SEEK_END):
            self._file.truncate(kept)

    def get(self, key: str) -> Reply | None:
        return self.replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply; it is in the file when this returns."""
        self.replies[key] = reply
        record = {"key": key, **{k: v for k, v in asdict(reply).items() if v is not None}}
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
