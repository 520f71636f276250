"""Opening what a sample names: regular files only, and what is said of those that are no media."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from caprl_native.data.sizes import Unusable
from caprl_native.types import MediaRef

_LFS = b"version https://git-lfs.github.com/spec/"
_KINDS = (
    (stat.S_ISDIR, "Is a directory, where a file is expected"),
    (stat.S_ISFIFO, "is a pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)


def open_medium(medium: MediaRef) -> BinaryIO:
    """The medium's bytes. Raises `Unusable` where they cannot be a medium, `OSError`."""
    if medium.path is None and not medium.data:
        raise Unusable("no bytes are embedded")
    if medium.data is not None:
        source: BinaryIO = io.BytesIO(medium.data)
    else:
        source = open_regular(medium.path or "")
    try:
        _check_start(source)
    except BaseException:
        source.close()
        raise
    return source


def open_regular(path: str | Path) -> BinaryIO:
    """A file that is one: pipes, devices and sockets would make whoever reads them wait."""
    try:
        # A pipe's other end is not waited for, and what was opened is what is looked at.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        _refuse_kind(path, error)
        raise
    source = os.fdopen(number, "rb")
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        source.close()
        raise Unusable(_kind(mode))
    return source


def _refuse_kind(path: str | Path, error: OSError) -> None:
    """A socket cannot be opened at all; its error would not say so."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        raise error from None
    if not stat.S_ISREG(mode):
        raise Unusable(_kind(mode)) from error


def _kind(mode: int) -> str:
    return next((text for is_it, text in _KINDS if is_it(mode)), "is not a regular file")


def _check_start(source: BinaryIO) -> None:
    start = source.read(len(_LFS))
    source.seek(0)
    if not start:
        raise Unusable("the file is empty")
    if start == _LFS:
        raise Unusable("is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise Unusable("is a web page, not a medium; its download failed")
