"""What a job knows by key, in databases on disk: their memory does not grow with the input."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

_AT_A_TIME = 1000  # new contents between commits; those that a kill loses are asked once more


class _Table:
    """A table of texts by key."""

    schema = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(f"CREATE TABLE IF NOT EXISTS known ({self.schema}) WITHOUT ROWID")

    def close(self) -> None:
        self._database.commit()
        self._database.close()

    def remove(self) -> None:
        """Closes it and deletes its files."""
        self._database.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


class Earlier(_Table):
    """Lines of results by their entry's key, from before the input changed."""

    schema = "key TEXT PRIMARY KEY, line BLOB NOT NULL"

    def add(self, lines: Iterable[tuple[str, bytes]]) -> None:
        """They are on disk when this returns."""
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO known VALUES (?, ?)", lines)

    def get(self, key: str) -> bytes | None:
        found = self._database.execute("SELECT line FROM known WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None


class Contents(_Table):
    """Where in the input each content was met first."""

    schema = "content TEXT PRIMARY KEY, position INTEGER NOT NULL"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._new = 0

    def first(self, content: str, position: int) -> int:
        """The position that had this content first; the given one where it is new, or its own."""
        query = "SELECT position FROM known WHERE content = ?"
        found = self._database.execute(query, (content,)).fetchone()
        if found:
            return int(found[0])
        self._database.execute("INSERT INTO known VALUES (?, ?)", (content, position))
        self._new += 1
        if self._new % _AT_A_TIME == 0:
            self._database.commit()
        return position
