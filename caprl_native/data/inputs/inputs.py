"""All inputs of a job, in a fixed order: the same entries whenever they are read again."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

from caprl_native.data.fields import DataError
from caprl_native.data.inputs.kinds import LISTS, TARS, kind_of_name
from caprl_native.data.inputs.lists import ListFile, entries_of_input
from caprl_native.data.inputs.rows import problem
from caprl_native.data.inputs.tars import TarFile
from caprl_native.data.listing import Entry
from caprl_native.files import matching
from caprl_native.types import MediaRef

STDIN = "-"
_ENDS_SHOWN = 5  # of names of files that are no media

log = logging.getLogger(__name__)
_DIGITS = re.compile(r"(\d+)")


class _Source(Protocol):
    @property
    def share(self) -> float: ...
    def entries(self) -> Iterator[Entry]: ...


class Inputs:
    """What names mean: media, folders of them, lists, tar files, or "-", a list on standard input.

    A list is read as it is needed, a folder sorted and folder by folder.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        media_root: str = "",
        limit: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """`shard`: (k, m): the entries whose id falls into part k of m. `limit`: of those; 0: all.

        Raises:
            DataError: a name means nothing, or a file cannot be read.
        """
        self._limit, self._shard = limit, shard
        self._sources: list[_Source] = []
        paths = [path for name in names for path in self._paths(name)]
        alone = len(paths) == 1
        singles: list[str] = []
        for path in paths:
            if kind_of_name(path) and not os.path.isdir(path):
                singles.append(path)
            else:
                self._sources.append(_source(path, media_root, alone))
        if singles:
            self._sources.insert(0, _Files(singles))
        self._at = 0

    def _paths(self, name: str) -> list[str]:
        if name == STDIN:
            return [STDIN]
        found = matching(name)
        if not found:
            raise DataError(f"{name}: no file matches")
        for path in found:
            if not os.path.exists(path):
                raise DataError(f"{path:.200}: there is no such file or folder")
        return found

    def __iter__(self) -> Iterator[Entry]:
        """The entries, from the first on."""
        return islice(self._of_shard(), self._limit or None)

    def _of_shard(self) -> Iterator[Entry]:
        part, parts = self._shard
        for at, source in enumerate(self._sources):
            self._at = at
            for entry in source.entries():
                if parts == 1 or shard_of(entry.id, parts) == part:
                    yield entry

    def fraction(self) -> float:
        """How much of all inputs has been read, from 0 to 1; each counts as much as another."""
        if not self._sources:
            return 1.0
        return (self._at + self._sources[self._at].share) / len(self._sources)


def shard_of(identity: str, parts: int) -> int:
    """The part that an id falls into, whatever else there is."""
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % parts


def _source(path: str, media_root: str, alone: bool) -> _Source:
    if path == STDIN:
        return _StandardInput(media_root)
    if os.path.isdir(path):
        return _Folder(path, alone)
    if path.lower().endswith(TARS):
        return TarFile(path, alone)
    if os.path.splitext(path)[1].lower() in LISTS:
        return ListFile(path, media_root)
    known = ", ".join(sorted(LISTS))
    raise DataError(
        f"{path}: its name tells neither an image, a video, a tar file nor a list ({known})"
    )


class _StandardInput:
    share = 0.0  # nobody knows how long it is

    def __init__(self, root: str) -> None:
        self._root = root

    def entries(self) -> Iterator[Entry]:
        return entries_of_input(self._root)


class _Files:
    """Single files, as a pattern or a command line names them."""

    def __init__(self, paths: list[str]) -> None:
        self._paths, self._read = paths, 0

    @property
    def share(self) -> float:
        return self._read / len(self._paths)

    def entries(self) -> Iterator[Entry]:
        for number, path in enumerate(self._paths, 1):
            self._read = number
            yield _entry(path, path)


class _Folder:
    """The media below a folder; hidden ones and links to folders are left out. What is no medium
    is counted and said.

    Ids are paths below the folder where it is the only input, else with the folder's own.
    """

    def __init__(self, path: str, alone: bool) -> None:
        self.path, self._alone = path, alone
        self._read, self._count = 0, 0  # of media; counted by a thread, for the time left

    @property
    def share(self) -> float:
        return min(1.0, self._read / self._count) if self._count else 0.0

    def entries(self) -> Iterator[Entry]:
        threading.Thread(target=self._count_all, daemon=True).start()
        others: Counter[str] = Counter()
        for number, (path, why) in enumerate(_media_below(self.path, others), 1):
            self._read = number
            identity = os.path.relpath(path, self.path) if self._alone else path
            yield problem(identity, path, why) if why else _entry(path, identity)
        if others:
            kinds = [f"{end} ({count:,})" for end, count in others.most_common(_ENDS_SHOWN)]
            log.warning("%s: %s files are neither images nor videos by their names and are left "
                        "out: %s", self.path, f"{others.total():,}", ", ".join(kinds))  # fmt: skip

    def _count_all(self) -> None:
        self._count = sum(1 for _ in _media_below(self.path, Counter()))


def _entry(path: str, identity: str) -> Entry:
    kind = kind_of_name(path)
    assert kind is not None
    return Entry(identity, (MediaRef(kind, path),), source=path)


def _media_below(folder: str, others: Counter[str]) -> Iterator[tuple[str, str]]:
    """Media files and then folders, each in natural order; with a folder that cannot be read, why.

    Files that are no media are counted in `others`, by the ends of their names.

    Links to folders are not followed: they may lead back.
    """
    try:
        with os.scandir(folder) as found:
            there = sorted(
                (e.name, e.is_dir(follow_symlinks=False))
                for e in found
                if not e.name.startswith(".")
            )
    except OSError as error:
        yield folder, f"the folder cannot be read: {error.strerror}; mend it, then --retry-failed"
        return
    there.sort(key=lambda entry: natural(entry[0]))
    for name, is_folder in there:
        if not is_folder and kind_of_name(name):
            yield os.path.join(folder, name), ""
        elif not is_folder:
            others[os.path.splitext(name)[1].lower() or "without an end"] += 1
    for name, is_folder in there:
        if is_folder:
            yield from _media_below(os.path.join(folder, name), others)


def natural(name: str) -> list[int | str]:
    """A key that sorts 9 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(_DIGITS.split(name))]
