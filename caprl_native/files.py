"""Names of files, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the stand-in for a file begins
_SAFE = " !#$&'()*+,:;=@[]^`{}~"  # in names of files
PULL_IT = "is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"


def user_path(name: str) -> str:
    """The path with a leading `~` or `~name` replaced by that user's home folder."""
    return os.path.expanduser(name)


def matching(name: str) -> list[str]:
    """The files that a name in a config means: `~` is expanded, and `*`, `?`, `[...]`, `**`.

    Empty where such a pattern matches nothing; a name without one is taken as it is.
    """
    name = user_path(name)
    if any(c in name for c in "*?[") and not os.path.exists(name):
        return sorted(glob(name, recursive=True))
    return [name]


def is_lfs_pointer(path: str | Path) -> bool:
    """Whether a file is what Git leaves where a large file was not fetched."""
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file to write; it takes the place of `path` at the end, unless the block fails."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unused(path: Path) -> Path:
    """The path, or with a number after it (`name.2`) where something of that name is there."""
    taken, number = path, 1
    while taken.exists() or taken.is_symlink():
        number += 1
        taken = path.with_name(f"{path.name}.{number}")
    return taken


def check_writable(folder: Path) -> str:
    """Makes the folder; why no file can be written into it, empty if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def file_name(name: str) -> str:
    """A name that any file system takes: itself where it can be, else with escapes, cut."""
    safe = quote(name, safe=_SAFE)
    if len(safe) <= 200:
        return safe
    return f"{safe[:160]}-{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
