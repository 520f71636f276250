"""The files between the stages: a JSON line per input, in the input's order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from caprl_native.config.cli import ConfigError
from caprl_native.curation.inputs import described
from caprl_native.data.fields import DataError
from caprl_native.data.listing import Entry
from caprl_native.files import atomic_write
from caprl_native.inference.jobs.chunk import JobResult

GENERATED, QUESTIONS, ANSWERS = "generated.jsonl", "questions.jsonl", "answers.jsonl"
Line = dict[str, Any]


def answers_file(number: int) -> str:
    """Of the first or the second solver (0, 1)."""
    return ANSWERS if not number else f"answers{number + 1}.jsonl"


def failed_file(name: str) -> str:
    """Where the inputs are listed that a stage failed on."""
    return name.replace(".jsonl", ".failed.jsonl")


def head(entry: Entry) -> Line:
    """What every line begins with."""
    return {"id": entry.id, "media": described(entry.media)}


def read(path: Path) -> Iterator[Line]:
    """The lines of a stage's file. Raises ConfigError where it is missing, or DataError."""
    if not path.exists():
        raise ConfigError(f"{path}: is not there; run the stage before first")
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise DataError(
                    f"{path}:{number}: is no JSON ({error}); run its stage again"
                ) from error
            if not isinstance(line, dict):
                raise DataError(f"{path}:{number}: is no object; run its stage again")
            yield line


def write(path: Path, lines: Iterable[Line]) -> int:
    """Writes a stage's file, which appears whole or not at all; returns the number of lines."""
    count = 0
    with atomic_write(path) as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
            count += 1
    return count


def write_results(
    folder: Path,
    name: str,
    results: Callable[[], Iterable[JobResult]],
    line_of: Callable[[JobResult], Line | None],
) -> None:
    """A stage's file and its list of failures."""
    write(folder / name, (line for r in results() if r.record is not None and (line := line_of(r))))
    failed = ({**head(r.entry), "reason": r.failure} for r in results() if r.failure)
    write(folder / failed_file(name), failed)


def joined(entries: Iterable[Entry], path: Path) -> Iterator[tuple[Entry, Line | None]]:
    """Every input with its line of a stage's file; None where it has none.

    Raises DataError where the file has lines that belong to no input.
    """
    lines = read(path)
    waiting = next(lines, None)
    for entry in entries:
        about = head(entry)
        if waiting and all(waiting.get(name) == value for name, value in about.items()):
            yield entry, waiting
            waiting = next(lines, None)
        else:
            yield entry, None
    if waiting:
        raise DataError(
            f"{path}: {waiting.get('id')!r:.200} is not in the input, or not in this place; the "
            "input has changed: run the stages again from the first"
        )
