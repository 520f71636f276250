"""Paths that a request names: nothing outside of the server's media roots is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class RefusedPath(ValueError):
    """A path that no client may name; the text tells nothing of what there is."""


class NoFile(Exception):
    """There is nothing to read under a path that may be named."""


def media_file(name: str, roots: Sequence[Path]) -> Path:
    """The file that a request means: an absolute path within a root, or one relative to a root.

    `roots` are resolved folders. Raises RefusedPath for "..", URLs, and what lies or leads
    elsewhere; NoFile where there is no such file.
    """
    if not roots:
        raise RefusedPath("this server opens no files: it has no server.media_roots")
    if "\0" in name or _URL.match(name) or "\\" in name:
        raise RefusedPath("expected a path, no URL")
    if ".." in name.split("/"):
        raise RefusedPath('expected a path without ".."')
    candidates = [Path(name)] if name.startswith("/") else [root / name for root in roots]
    found = [file for candidate in candidates if (file := _within(candidate, roots))]
    if not found:
        raise NoFile("no such file under the server's media roots")
    return found[0]


def _within(path: Path, roots: Sequence[Path]) -> Path | None:
    """Where a path leads; None where there is no regular file.

    Raises RefusedPath where a link leads out of the roots, whatever there is.
    """
    try:
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in roots):
            raise RefusedPath("leads out of the server's media roots")
        return real if real.is_file() else None
    except OSError:
        return None
