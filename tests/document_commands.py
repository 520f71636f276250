"""The commands that documents show, as a shell would take them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INTERPRETERS = ("python", ".venv/bin/python")


@dataclass(frozen=True)
class Command:
    """`mark`: its comment; `program`: `tools/x.py`, a module, or the first word."""

    document: str
    words: tuple[str, ...]
    mark: str

    @property
    def program(self) -> str:
        if self.words[0] == "torchrun":
            return self.words[self.words.index("-m") + 1]
        if self.words[0] in INTERPRETERS:
            return self.words[2] if self.words[1] == "-m" else self.words[1]
        return self.words[0]

    @property
    def arguments(self) -> list[str]:
        """What comes behind the program."""
        return list(self.words[self.words.index(self.program) + 1 :])

    @property
    def needs(self) -> str:
        """What the mark says that the command needs: GPU, Docker or nothing."""
        return next((need for need in ("GPU", "Docker") if need in self.mark), "")


def commands(document: Path) -> Iterator[Command]:
    """Those in fenced blocks, in order; lines that end in a backslash go on."""
    for block in FENCE.findall(document.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                mark = line.rpartition(" #")[2] if " #" in line else ""
                name = document.relative_to(ROOT).as_posix()
                yield Command(name, tuple(words), mark.strip())


def all_commands() -> list[Command]:
    return [command for document in DOCUMENTS for command in commands(document)]
