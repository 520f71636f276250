"""What the parts of gpu_smoke.py share: their options, and how a check's finding is told.

A part is a generator of `(what is checked, function)`. Every function returns a `Finding`; an
exception is a failure of that check, told by its first line, with the traceback on stderr. A
finding is written as a line of JSON as soon as it is there, so that what kills the process later
takes none of them away.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """The command line of a part. `scratch`: a folder that the parts share."""

    scratch: Path
    cpu: bool = False
    max_gap: float = 0.05  # nats, mean |log p(trainer) - log p(engine)|
    max_memory_ratio: float = 1.1  # of the peak to what was planned


@dataclass(frozen=True)
class Finding:
    """A figure, the bound that it is held to ("" for none), and whether it keeps it."""

    figure: float | str
    bound: str = ""
    ok: bool = True


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    part: str
    what: str
    figure: float | str
    bound: str
    ok: bool
    seconds: float


Check = tuple[str, Callable[[], Finding]]
Part = Callable[[Options], Iterator[Check]]

NOT_ON_CPU = Finding("not on a CPU")


def at_most(figure: float, bound: float) -> Finding:
    return Finding(figure, f"<= {bound:g}", figure <= bound)


def at_least(figure: float, bound: float) -> Finding:
    return Finding(figure, f">= {bound:g}", figure >= bound)


def holds(told: float | str, condition: bool, bound: str) -> Finding:
    """`bound` says in words what the condition is."""
    return Finding(told, bound, bool(condition))


def rows_of(name: str, checks: Iterator[Check]) -> Iterator[Row]:
    """Runs a part's checks one after the other; what fails between two of them ends the part."""
    while True:
        began, what = time.perf_counter(), "setting up"
        try:
            what, check = next(checks)
            found = check()
        except StopIteration:
            return
        except Exception as error:
            traceback.print_exc()
            found = Finding(said(error), "no error", False)
        yield Row(name, what, found.figure, found.bound, found.ok, time.perf_counter() - began)


def said(error: BaseException) -> str:
    """An exception in a line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        ours = error.name.startswith("caprl_native.")
        return f"{error.name} is not {'built yet' if ours else 'installed'}"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def parser() -> argparse.ArgumentParser:
    """The options that the runner hands on to every part."""
    made = argparse.ArgumentParser(add_help=False)
    made.add_argument("--cpu", action="store_true", help="the CPU equivalent, on tiny models")
    made.add_argument(
        "--max-gap",
        type=float,
        default=Options.max_gap,
        help="bound of the mean |log p(trainer) - log p(engine)|, nats",
    )
    made.add_argument(
        "--max-memory-ratio",
        type=float,
        default=Options.max_memory_ratio,
        help="bound of an update's peak memory over what the planner said",
    )
    return made


def arguments(options: Options) -> list[str]:
    """The command line that `run_part` turns into these options."""
    given = {k: v for k, v in asdict(options).items() if k != "cpu"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return flags + ["--cpu"] * options.cpu


def run_part(name: str, part: Part) -> None:
    """The main function of a part's program: writes rows to the stdout that it was started with,
    and sends to stderr what libraries print."""
    command = argparse.ArgumentParser(parents=[parser()])
    command.add_argument("--scratch", type=Path, required=True)
    options = Options(**vars(command.parse_args()))
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for row in rows_of(name, part(options)):
        print(json.dumps(asdict(row)), file=rows, flush=True)
    import torch.distributed as dist

    if dist.is_initialized():  # an engine that was closed has done it
        dist.destroy_process_group()


def row_from(line: str) -> Row:
    """A line that `run_part` wrote."""
    values: dict[str, Any] = json.loads(line)
    return Row(**values)
