"""How far a job is: a line on the terminal, a file for others, and a text about that file."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from caprl_native.config.cli import ConfigError
from caprl_native.files import atomic_write
from caprl_native.inference.jobs.ledger import Ledger
from caprl_native.inference.store import locked

EVERY_S = 5.0  # between two states of status.json
_MOST_REASONS = 10  # that are listed
_RUNNING = "running"


class Progress:
    """What a run has done so far, how fast, and how long the rest will take.

    `fraction`: how much of the input has been read, from 0 to 1; `total`: entries, where known.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        unit: str,
        total: int | None,
        fraction: Callable[[], float] | None,
        shown: bool,
    ) -> None:
        self._ledger, self._total, self._fraction = ledger, total, fraction
        self._began, self._written = time.monotonic(), 0.0
        self._first = 0.0  # fraction of the input that was there when the first entry was begun
        self.new, self.missing, self.known = 0, 0, ledger.totals.done + ledger.totals.failed
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=self.known if total else 0,
            unit=f" {unit}",
            disable=not shown,
            mininterval=30 if quiet else 0.2,
        )

    def begin(self) -> None:
        """The model is there, and the first entry that was not known is begun."""
        self._began, self._first = time.monotonic(), self._read()

    def add(self) -> None:
        """One more entry is done, or has failed."""
        self.new += 1
        self._bar.set_postfix_str(self._postfix(), refresh=False)
        self._bar.update()
        if time.monotonic() - self._written > EVERY_S:
            self.write(_RUNNING)

    @property
    def rate(self) -> float:
        """Entries per second of this run."""
        return self.new / max(1e-9, time.monotonic() - self._began)

    @property
    def seconds_left(self) -> float | None:
        """None where nothing tells."""
        if not self.new:
            return None
        if self._total is not None:
            return max(0, self._total - self.known - self.new) / self.rate
        passed = self._read() - self._first
        if passed <= 0:
            return None
        return (time.monotonic() - self._began) * (1 - self._first - passed) / passed

    def _read(self) -> float:
        return self._fraction() if self._fraction else 0.0

    def _postfix(self) -> str:
        parts = [f"{self._read():.1%}"] if self._fraction and self._total is None else []
        if self._total is None and (left := self.seconds_left) is not None:
            parts.append(f"{tqdm.format_interval(left)} left")
        parts += [f"{self._ledger.totals.failed:,} failed"] if self._ledger.totals.failed else []
        return ", ".join(parts)

    def write(self, state: str) -> None:
        """Writes status.json. Raises OSError."""
        self._written = time.monotonic()
        totals = self._ledger.totals
        about = {
            "state": state,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "updated": time.strftime("%Y-%m-%d %H:%M:%S"),
            "done": totals.done,
            "failed": totals.failed,
            "missing": self.missing,
            "per_second": round(self.rate, 3),
            "seconds_left": None if (left := self.seconds_left) is None else round(left),
            "fraction": round(self._read(), 4) if self._fraction else None,
            "total": self._total,
            "counts": dict(sorted(totals.counts.items())),
            "reasons": dict(totals.reasons.most_common()),
        }
        with atomic_write(self._ledger.folder / "status.json") as file:
            json.dump(about, file, indent=1)

    def close(self, state: str) -> None:
        """The last state; on a full disk the one before it stays."""
        self._bar.set_postfix_str(self._postfix())
        self._bar.close()
        with suppress(OSError):
            self.write(state)


def is_at_work(folder: Path) -> bool:
    """Whether a process works in the job's folder."""
    try:
        locked(folder).close()
    except ConfigError:
        return True
    return False


def describe(folder: Path) -> str:
    """How far the job in this folder is. Raises ConfigError where there is none."""
    try:
        about = json.loads((folder / "status.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no job has been begun there ({error})") from error
    return "\n".join(_lines(about, is_at_work(folder)))


def _lines(about: dict[str, Any], at_work: bool) -> list[str]:
    state = about["state"]
    if state == _RUNNING and not at_work:
        state = "not running: it was killed; run it again to go on"
    elif at_work:
        state = f"running on {about['host']}, process {about['pid']}"
    entries = f"{about['done']:,} done, {about['failed']:,} failed, {about['missing']:,} missing"
    lines = [f"{state} (as of {about['updated']})", entries]
    if at_work and about["seconds_left"] is not None:
        left = tqdm.format_interval(about["seconds_left"])
        lines.append(f"{about['per_second']:,.1f} per second, {left} left")
    if about["fraction"] is not None:
        lines.append(f"{about['fraction']:.1%} of the input has been read")
    lines += [f"{count:,} {name}" for name, count in about["counts"].items()]
    reasons = list(about["reasons"].items())
    lines += [f"failed, {count:,}: {reason}" for reason, count in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        lines.append(f"and {len(reasons) - _MOST_REASONS} further reasons")
    return lines
