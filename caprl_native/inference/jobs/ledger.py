"""The results of a job on disk, in chunks of its input, and a manifest of those that are complete.

    FOLDER/job.json                  what results depend on; entries per chunk
           manifest.jsonl            a line for each complete chunk
           chunks/000/00000012.jsonl   its results, in the input's order; appears as a whole
           open/00000013.jsonl       results of a chunk that is not complete, as they came
           earlier.sqlite            results of an input that has changed since, by entry
           contents.sqlite           where each content was met first
           status.json               how far the job is (status.py)

A chunk is known by its place in the input and by the digest of its entries. Where an input has
changed, by a file more, say, the results of all chunks from there on are kept by entry, and found.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caprl_native.config.cli import ConfigError
from caprl_native.data.fields import DataError
from caprl_native.data.listing import Entry
from caprl_native.files import atomic_write
from caprl_native.inference.jobs.chunk import Chunk, JobResult, Line, whole_lines
from caprl_native.inference.jobs.earlier import Contents, Earlier
from caprl_native.inference.store import key_of, locked
from caprl_native.messages import shown
from caprl_native.types import MediaRef

VERSION = 1
_MOST_REASONS = 50  # told apart in the totals


@dataclass
class Totals:
    """What the complete chunks hold, and what this run has added to others."""

    done: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, line: Line, sign: int = 1) -> None:
        self.failed += sign * bool(line.failure)
        self.done += sign * (not line.failure)
        self.counts.update({name: sign * value for name, value in line.counts.items()})
        if line.failure:
            known = line.reason in self.reasons or len(self.reasons) < _MOST_REASONS
            self.reasons[line.reason if known else "other reasons"] += sign


@dataclass(frozen=True)
class Closed:
    """A line of the manifest: a complete chunk."""

    chunk: int
    entries: int
    failed: int
    inputs: str  # digest of its entries' keys
    digest: str  # of its file
    reasons: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Ledger:
    """One job's folder. Raises ConfigError where another process works in it, or other settings."""

    def __init__(self, folder: Path, identity: Sequence[Any], size: int) -> None:
        """`size`: entries per chunk; of a job that was begun, the size that it was begun with."""
        self.folder = folder
        (folder / "open").mkdir(parents=True, exist_ok=True)
        self._lock = locked(folder)
        try:
            self.size = self._begun(list(identity), size)
            self.closed: dict[int, Closed] = {c.chunk: c for c in read_manifest(folder)}
        except (ConfigError, DataError, OSError):
            self._lock.close()
            raise
        self.totals = _totals(self.closed.values())
        path = folder / "earlier.sqlite"
        self._earlier = Earlier(path) if path.exists() else None
        self._contents: Contents | None = None

    def _begun(self, identity: list[Any], size: int) -> int:
        """Notes what the job depends on, or compares it with what was noted."""
        given = json.loads(json.dumps(identity))
        path = self.folder / "job.json"
        if not path.exists():
            about = {"version": VERSION, "identity": given, "entries_per_chunk": size}
            with atomic_write(path) as file:
                json.dump(about, file, indent=1)
            return size
        noted = json.loads(path.read_text("utf-8"))
        if noted["identity"] != given or noted["version"] != VERSION:
            raise ConfigError(
                f"{path}: was begun with other settings ({_difference(noted['identity'], given)}); "
                "give another output, or --overwrite to begin anew"
            )
        return int(noted["entries_per_chunk"])

    # --- chunks -------------------------------------------------------------------------------

    def begin(self, number: int, entries: Sequence[Entry], keys: Sequence[str]) -> Chunk | None:
        """The chunk of these entries, with what is known of it; None if it is complete."""
        chunk = Chunk(number, entries, keys, self.folder)
        closed = self.closed.get(number)
        if closed and closed.inputs == chunk.inputs:
            return None
        opened = chunk.read_open()
        if closed or any(line.key not in chunk.keys for line in opened):
            self._set_aside(number)
            opened = []
        for line in [*opened, *self._known_earlier(chunk)]:
            if chunk.restore(line):
                self.totals.add(line)
        if chunk.is_complete:
            self._close(chunk)
            return None
        return chunk

    def reopen(self, number: int, entries: Sequence[Entry], keys: Sequence[str]) -> None:
        """Makes the failures of a complete chunk of these entries missing again."""
        closed = self.closed.get(number)
        chunk = Chunk(number, entries, keys, self.folder)
        if not closed or not closed.failed or closed.inputs != chunk.inputs:
            return
        lines = list(chunk.read_closed())
        chunk.write_open(line for line in lines if not line.failure)
        self._forget(lambda at: at == number)
        for line in lines:
            self.totals.add(line, -1)
        chunk.closed_path.unlink()

    def add(self, chunk: Chunk, line: Line) -> None:
        """Keeps what became of an entry; it is in a file when this returns."""
        chunk.append(line)
        self.totals.add(line)
        if chunk.is_complete:
            self._close(chunk)

    def _close(self, chunk: Chunk) -> None:
        digest = chunk.close()
        its = Totals()
        for line in chunk.lines.values():
            its.add(line)
        closed = Closed(
            chunk.number,
            len(chunk.keys),
            its.failed,
            chunk.inputs,
            digest,
            dict(its.reasons),
            dict(its.counts),
        )
        with (self.folder / "manifest.jsonl").open("ab") as file:
            file.write(json.dumps(asdict(closed)).encode() + b"\n")
        self.closed[chunk.number] = closed
        chunk.open_path.unlink(missing_ok=True)

    # --- an input that has changed ------------------------------------------------------------

    def _set_aside(self, number: int) -> None:
        """Keeps the results of this chunk and of all that follow by entry, and their files not."""
        self._earlier = self._earlier or Earlier(self.folder / "earlier.sqlite")
        files = [f for f in self._files() if int(f.stem) >= number]
        for file in files:
            self._earlier.add(
                (line.key, line.encoded()) for line in whole_lines(file) if line.record is not None
            )
        self._forget(lambda at: at >= number)
        for file in files:
            file.unlink()
        self.totals = _totals(self.closed.values())
        if self._contents:
            self._contents.close()
            self._contents = None
        (self.folder / "contents.sqlite").unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [*self.folder.glob("chunks/*/*.jsonl"), *self.folder.glob("open/*.jsonl")]

    def _forget(self, which: Callable[[int], bool]) -> None:
        """Takes chunks out of the manifest."""
        self.closed = {n: c for n, c in self.closed.items() if not which(n)}
        with atomic_write(self.folder / "manifest.jsonl") as file:
            for closed in self.closed.values():
                file.write(json.dumps(asdict(closed)) + "\n")

    def _known_earlier(self, chunk: Chunk) -> Iterator[Line]:
        if not self._earlier:
            return
        for number, key in enumerate(chunk.keys):
            if found := self._earlier.get(key):
                yield Line.of(found).at(number)

    # --- one answer for equal contents --------------------------------------------------------

    def first_with(self, content: str, position: int) -> int:
        """Where this content was met first: at `position` itself, or before."""
        self._contents = self._contents or Contents(self.folder / "contents.sqlite")
        return self._contents.first(content, position)

    # --- the end ------------------------------------------------------------------------------

    def finish(self, chunks: int) -> None:
        """The input has so many chunks, and all are complete: what is of none is removed."""
        if surplus := [n for n in self.closed if n >= chunks]:
            self._forget(lambda at: at in surplus)
            self.totals = _totals(self.closed.values())
        for file in self._files():
            if int(file.stem) >= chunks:
                file.unlink()
        if self._earlier:
            self._earlier.remove()
            self._earlier = None

    def results(self) -> Iterator[JobResult]:
        """What became of each entry, in the input's order. Embedded media are without their bytes.

        Raises:
            DataError: a chunk's file is not as it was written.
        """
        lines = _Lines(self.folder, self.closed, self.size)
        for number in sorted(self.closed):
            for line in lines.of(number):
                yield lines.resolved(line).result(line)

    def close(self) -> None:
        for table in (self._earlier, self._contents):
            if table:
                table.close()
        self._lock.close()


class _Lines:
    """The lines of complete chunks; those that refer to another one's are resolved."""

    def __init__(self, folder: Path, closed: dict[int, Closed], size: int) -> None:
        self._folder, self._closed, self._size = folder, closed, size
        self._last: tuple[int, list[Line]] = (-1, [])

    def of(self, number: int) -> list[Line]:
        """Raises DataError."""
        path = Chunk.path_in(self._folder, number)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error
        if digest_of(data) != self._closed[number].digest:
            raise _damaged(path, "is not as it was written")
        return [Line.of(text) for text in data.splitlines()]

    def resolved(self, line: Line) -> Line:
        """The line that holds the result: its own, or that of the first equal content."""
        if line.same_as is None:
            return line
        number, place = divmod(line.same_as, self._size)
        if self._last[0] != number:
            self._last = number, self.of(number)
        return self._last[1][place]


def read_manifest(folder: Path) -> Iterator[Closed]:
    """The complete chunks; a last line that a kill cut short is none. Raises DataError."""
    path = folder / "manifest.jsonl"
    if not path.exists():
        return
    whole = 0
    with path.open("rb+") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                break
            whole += len(text)
            try:
                yield Closed(**json.loads(text))
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{path}:{number}: a damaged line; remove it, and its chunk is made again"
                ) from error
        if whole < os.fstat(file.fileno()).st_size:
            file.truncate(whole)


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def entry_key(entry: Entry) -> str:
    """24 digits that stand for an entry: its id, its columns, and its files as they are now."""
    media = [[m.kind, m.path or m.label, m.start, m.end, m.fps, *_now(m)] for m in entry.media]
    return key_of(entry.id, media, repr(entry.columns), entry.problem)


def _now(medium: MediaRef) -> list[Any]:
    """Size and time of change of a file, or the digest of embedded bytes."""
    if medium.data is not None:
        return [digest_of(medium.data)]
    try:
        found = os.stat(medium.path or "")
    except (OSError, ValueError):
        return ["not there"]
    return [found.st_size, found.st_mtime_ns]


def _totals(closed: Iterable[Closed]) -> Totals:
    totals = Totals()
    for chunk in closed:
        totals.done += chunk.entries - chunk.failed
        totals.failed += chunk.failed
        totals.reasons.update(chunk.reasons)
        totals.counts.update(chunk.counts)
    return totals


def _difference(noted: Any, given: Any) -> str:
    """The first part in which two identities differ."""
    if isinstance(noted, list) and isinstance(given, list) and len(noted) == len(given):
        pairs = zip(noted, given, strict=True)
        return next((_difference(a, b) for a, b in pairs if a != b), "another version")
    return f"{shown(noted, 80)} then, {shown(given, 80)} now"


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: {why}; remove it and its line in manifest.jsonl, and the chunk is made again"
    )
