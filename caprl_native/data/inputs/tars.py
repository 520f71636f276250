"""WebDataset shards: tar files in which the members of a sample follow each other.

000123.jpg  000123.json      one sample: an image and its columns
000124.mp4  000124.txt       a video, and a column `txt`
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from caprl_native.data.fields import DataError, loads
from caprl_native.data.inputs.kinds import kind_of_name
from caprl_native.data.inputs.rows import problem
from caprl_native.data.listing import Entry
from caprl_native.types import MediaRef

_MOST_BYTES = 1 << 30  # of a member
_TEXTS = ("txt", "cls", "text", "caption")


class _Header(tarfile.TarInfo):
    """A header; of one that is damaged or missing, which tarfile takes for the archive's end, an
    error: nobody would see what lies behind it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf) and len(buf) == tarfile.BLOCKSIZE:
                raise  # blocks of zeros are the end
            raise tarfile.ReadError(f"{error}, where a member or the end should be") from error


@dataclass
class _Gathered:
    """The members of a sample so far."""

    key: str
    media: list[MediaRef] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class TarFile:
    """A shard, passed once from its start. Raises DataError where it cannot be opened.

    Ids are keys where it is the only input, else with the shard's name: shards may share keys.
    """

    def __init__(self, path: str, alone: bool) -> None:
        self.path, self.size, self.read = path, max(1, os.path.getsize(path)), 0
        self._alone = alone
        try:
            with tarfile.open(path, "r|*", tarinfo=_Header):
                pass
        except (OSError, tarfile.TarError, EOFError) as error:
            raise DataError(f"{path}: cannot be read as a tar file: {error}") from error

    @property
    def share(self) -> float:
        """How much of it has been read, from 0 to 1."""
        return min(1.0, self.read / self.size)

    def entries(self) -> Iterator[Entry]:
        """Every sample; where the file is damaged, an entry that says so is the last one."""
        gathered: _Gathered | None = None
        try:
            with (
                open(self.path, "rb") as file,
                tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as tar,
            ):
                for member in tar:
                    if not member.isfile() or os.path.basename(member.name).startswith("."):
                        continue
                    key, extension = _parts(member.name)
                    if gathered is None or gathered.key != key:
                        if gathered:
                            yield self._entry(gathered)
                        gathered = _Gathered(key)
                    self._add(gathered, tar, member, extension)
                    self.read = file.tell()
                if gathered:
                    yield self._entry(gathered)
                    gathered = None
                _check_nothing_follows(tar)
        except (OSError, tarfile.TarError, EOFError) as error:
            lost = f"; {gathered.key}, which may lack members, is left out" if gathered else ""
            yield problem(self.path, self.path, f"is damaged after this: {error}{lost}")
            return
        self.read = self.size

    def _add(
        self, to: _Gathered, tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str
    ) -> None:
        if member.size > _MOST_BYTES:
            to.problem = f"{member.name} has {member.size / 2**30:.1f} GiB; give it as a file"
            return
        opened = tar.extractfile(member)
        data = opened.read() if opened else b""
        if kind := kind_of_name(member.name):
            label = f"{self.path}#{member.name}"
            to.media.append(MediaRef(kind, data=data, label=label))
        elif extension == "json":
            self._add_columns(to, member.name, data)
        elif extension in _TEXTS:
            to.columns[extension] = data.decode("utf-8", "replace").strip()

    def _add_columns(self, to: _Gathered, name: str, data: bytes) -> None:
        try:
            found = loads(data.decode("utf-8-sig"))
        except ValueError as error:  # UnicodeDecodeError is one
            to.problem = f"{name}: {error}"
            return
        to.columns |= found if isinstance(found, dict) else {"json": found}

    def _entry(self, found: _Gathered) -> Entry:
        where = f"{self.path}#{found.key}"
        if found.problem or not found.media:
            why = found.problem or "the sample has no image and no video"
            return problem(where, where, why)
        identity = found.columns.pop("id", None)
        default = found.key if self._alone else where
        name = str(identity) if isinstance(identity, str | int) and identity != "" else default
        return Entry(name, tuple(found.media), found.columns, where)


def _check_nothing_follows(tar: tarfile.TarFile) -> None:
    """Raises ReadError where more than zeros are behind the end: another archive, by `cat`."""
    assert tar.fileobj is not None
    while block := tar.fileobj.read(tarfile.RECORDSIZE):
        if any(block):
            raise tarfile.ReadError("something follows after its end, which is not read")


def _parts(name: str) -> tuple[str, str]:
    """The key of a member's sample, and the member's extension: a/b.left.jpg -> a/b, left.jpg."""
    folder, base = os.path.split(name)
    stem, _, extension = base.partition(".")
    return os.path.join(folder, stem), extension.lower()
