"""A share of the records that is never trained on (`data.hold_out`), with media of its own."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from caprl_native.data.fields import FieldError
from caprl_native.data.records import DataError, Records
from caprl_native.types import MediaRef, Sample


def hold_out(records: Records, share: float, seed: int) -> tuple[Records, Records]:
    """The records that are trained on, and those that are held out: at most `share` of all.

    A function of the records' ids and media, the share and the seed, whatever the order of the
    files. Records that share a medium, also by way of others, stay together. Held-out questions are
    taken as they are, whatever `data.max_blind_accuracy` and `data.question_weights` say.

    Raises:
        DataError: no set of records with media of its own is so small, or nothing is left to train
            on.
    """
    places, ids, sets = _scan(records)
    together: dict[int, list[int]] = {}
    for i in range(len(ids)):
        together.setdefault(sets.root(i), []).append(i)
    wanted = max(1, round(share * len(ids)))
    taken: set[int] = set()
    for members in sorted(together.values(), key=lambda m: _rank(seed, min(ids[i] for i in m))):
        if len(taken) + len(members) <= wanted:
            taken.update(members)
    if not taken or len(taken) == len(ids):
        least = min(map(len, together.values()), default=0)
        raise DataError(
            f"data.hold_out = {share:g} of {len(ids)} records is {wanted}, but the smallest set of "
            f"records that share no medium with the rest has {least}: add records, raise "
            "data.hold_out, or name held-out files in data.eval_files"
        )
    mark = f"{share!r} held out by {seed}"
    trained = _part(records, places, [i for i in range(len(ids)) if i not in taken], mark)
    return trained, _as_they_are(_part(records, places, sorted(taken), mark))


def _rank(seed: int, identity: str) -> bytes:
    """Where a set of records stands among all, by the smallest id in it."""
    return hashlib.blake2b(f"{seed}\0{identity}".encode("utf-8", "surrogatepass")).digest()


class _Sets:
    """Disjoint sets of numbers from 0 on (union-find with path halving)."""

    def __init__(self) -> None:
        self._parent = array("q")

    def add(self) -> int:
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def root(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    def unite(self, i: int, j: int) -> None:
        self._parent[self.root(j)] = self.root(i)


def _scan(records: Records) -> tuple[array[int], list[str], _Sets]:
    """Of each record its place in the files and its id; records that share a medium are united."""
    places, ids, sets = array("q"), list[str](), _Sets()
    first: dict[bytes, int] = {}  # medium -> a record that has it
    for place, sample in _samples(records):
        record = sets.add()
        places.append(place)
        ids.append(records.renamed.get(record, sample.id))
        for medium in sample.media:
            sets.unite(first.setdefault(_identity(medium), record), record)
    return places, ids, sets


def _samples(records: Records) -> Iterator[tuple[int, Sample]]:
    """The records in order, without embedded bytes, each with its place in all files together."""
    kept = None if records.kept is None else set(records.kept)
    place = -1
    for f, rows in enumerate(records.files):
        for i, raw in enumerate(rows.scan()):
            place += 1
            if kept is not None and place not in kept:
                continue
            if isinstance(raw, FieldError):
                raise DataError(f"{records.where(f, i)}: {raw}; did the file change?")
            yield place, records.parse(f, i, raw)


def _identity(medium: MediaRef) -> bytes:
    """What records share that have the same medium: its path, or the name of an embedded file.

    A file embedded without a name is its record's own: the bytes are not read.
    """
    name = os.path.normpath(medium.path) if medium.path else medium.label
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _part(records: Records, places: array[int], chosen: list[int], mark: str) -> Records:
    """Some of the records; `mark` says which in their fingerprint."""
    renamed = {k: records.renamed[i] for k, i in enumerate(chosen) if i in records.renamed}
    digest = hashlib.blake2b(f"{records.fingerprint}\0{mark}".encode(), digest_size=16)
    return replace(
        records,
        kept=array("q", (places[i] for i in chosen)),
        renamed=renamed,
        fingerprint=digest.hexdigest(),
    )


def _as_they_are(records: Records) -> Records:
    """With all of their questions, unweighted, as held-out files have them."""
    parsers = [partial(p.func, *p.args, **{**p.keywords, "columns": None}) for p in records.parsers]
    return replace(records, parsers=parsers)
