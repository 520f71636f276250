"""Results on disk: a JSON line per caption, answer or judgement, appended as soon as it is there.

Each has a key made of all that it depends on: model, prompt, media, settings, seed. What is in the
file need not be made again, and a changed setting finds nothing under its own keys. A line that a
kill cut short is dropped.
"""

from __future__ import annotations

import hashlib
import json
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


class JsonLog:
    """A file of JSON lines that only grows; a last line that a kill cut short is dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")

    def records(self) -> Iterator[dict[str, Any]]:
        """What is there, once, before anything is added."""
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if line.endswith(b"\n"):
                whole += len(line)
                yield json.loads(line)
        self._file.truncate(whole)

    def add(self, record: dict[str, Any]) -> None:
        """Adds a line; it is in the file when this returns."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Store:
    """The replies of one stage by key; of several under a key the last counts."""

    def __init__(self, path: Path) -> None:
        self._log = JsonLog(path)
        self.replies = {r.pop("key"): Reply(**r) for r in self._log.records()}

    def get(self, key: str) -> Reply | None:
        return self.replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply; it is in the file when this returns."""
        self.replies[key] = reply
        given = {name: value for name, value in asdict(reply).items() if value is not None}
        self._log.add({"key": key, **given})

    def close(self) -> None:
        self._log.close()
