"""Results on disk: a JSON line per caption, answer or judgement, appended as soon as it is there.

Each has a key made of all that it depends on: model, prompt, media, settings, seed. What is in the
file need not be made again, and a changed setting finds nothing under its own keys. A line that a
kill cut short is dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caprl_native.config.toml import ConfigError
from caprl_native.data.fields import DataError

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


def _reply(record: dict[str, Any]) -> Reply:
    """The reply that a line holds. Raises ValueError where it holds something else."""
    kinds = {"text": str, "tokens": int, "finish": str, "failure": str}
    for name, value in record.items():
        if type(value) is not kinds.get(name):
            raise ValueError(f"{name!r:.40} is none of a reply's fields, or holds no such value")
    if ("text" in record) == ("failure" in record):
        raise ValueError("it holds neither a text nor a failure, or both")
    return Reply(**record)


class JsonLog:
    """A file of JSON lines that only grows; a last line that a kill cut short is dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._file = path, path.open("ab+")

    def records(self) -> Iterator[dict[str, Any]]:
        """What is there, once, before anything is added.

        Raises DataError for a line inside the file that is none of ours.
        """
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if line.endswith(b"\n"):
                whole += len(line)
                yield self._record(line, number)
        self._file.truncate(whole)

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self.damaged(number, f"it is not JSON ({error})") from error
        if not isinstance(record, dict) or not isinstance(record.get("key"), str):
            raise self.damaged(number, 'it is no object with a "key"')
        return record

    def damaged(self, number: int, why: str) -> DataError:
        """The error for a line that is not as it was written."""
        return DataError(
            f"{self.path}:{number}: a damaged line: {why}; remove the line, and what it held is "
            "made again"
        )

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
        self.replies = {}
        for number, record in enumerate(self._log.records(), 1):
            key = record.pop("key")
            try:
                self.replies[key] = _reply(record)
            except ValueError as error:
                raise self._log.damaged(number, str(error)) from error

    def get(self, key: str) -> Reply | None:
        return self.replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply; it is in the file when this returns."""
        self.replies[key] = reply
        given = {name: value for name, value in asdict(reply).items() if value is not None}
        self._log.add({"key": key, **given})

    def close(self) -> None:
        self._log.close()


def locked(folder: Path, key: str = "", other: str = "output") -> Any:
    """The folder's lock, held until it is closed, or this process ends.

    Raises:
        ConfigError: another process has it; names the setting `key` and what else to give.
    """
    file = (folder / ".lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        where = f"{key}: " if key else ""
        raise ConfigError(
            f"{where}another process works in {folder}; wait, or give another {other}"
        ) from error
    return file
