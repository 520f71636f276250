"""Which records share media: what has to stay together when records are split."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable

from caprl_native.types import MediaRef


class SharedMedia:
    """The ids of records in order, and sets of those that share a medium, also by way of others.

    16 bytes of memory per record, and some 150 per medium, beside the ids.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._parent = array("q")  # union-find, with path halving
        self._first: dict[bytes, int] = {}  # medium -> a record that has it

    def add(self, identity: str, media: Iterable[MediaRef]) -> None:
        """Takes in the next record."""
        record = len(self.ids)
        self.ids.append(identity)
        self._parent.append(record)
        for medium in media:
            other = self._first.setdefault(_identity(medium), record)
            self._parent[self._root(record)] = self._root(other)

    def sets(self) -> list[list[int]]:
        """The numbers of the records of each set, from 0."""
        found: dict[int, list[int]] = {}
        for record in range(len(self.ids)):
            found.setdefault(self._root(record), []).append(record)
        return list(found.values())

    def _root(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i


def _identity(medium: MediaRef) -> bytes:
    """What records share that have the same medium: its path, or the name of an embedded file.

    A file embedded without a name is its record's own: a check at start-up does not read it.
    """
    name = os.path.normpath(medium.path) if medium.path else medium.label
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
