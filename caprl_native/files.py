"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replaced(path: Path) -> Iterator[TextIO]:
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
