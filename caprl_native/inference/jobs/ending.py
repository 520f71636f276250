"""How a job's end is told: a few lines on stderr, and an exit code."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from caprl_native.config.cli import ConfigError
from caprl_native.inference.jobs.ledger import Ledger
from caprl_native.inference.jobs.runner import Ended

DONE, FAILED, INCOMPLETE, INTERRUPTED = 0, 1, 3, 130
_MOST_REASONS, _REASON = 8, 240  # that are listed; characters of each


def told(ended: Ended, ledger: Ledger, failures: Path | None = None) -> int:
    """Says on stderr what is missing or has failed; returns the exit code.

    `failures`: the file that lists them.
    """
    totals = ledger.totals
    if ended.state == "gave up":
        text = f"gave up: the model does not answer: {ended.lost}; {totals.done:,} results are kept"
        print(f"{text}, run it again to go on", file=sys.stderr)
        return FAILED
    if ended.state == "interrupted":
        text = f"interrupted; {totals.done:,} results are kept in {ledger.folder}"
        print(f"{text}, run it again to go on", file=sys.stderr)
        return INTERRUPTED
    if ended.missing:
        text = f"incomplete: {ended.missing:,} entries without an answer of the model"
        print(f"{text}; run it again to ask for them", file=sys.stderr)
    if totals.failed:
        listed = f", listed in {failures}" if failures else ""
        text = f"{totals.failed:,} of {totals.done + totals.failed:,} entries have failed{listed}"
        print(f"{text}; --retry-failed tries them again", file=sys.stderr)
        for reason, count in totals.reasons.most_common(_MOST_REASONS):
            print(f"  {count:,}: {' '.join(reason.split())[:_REASON]}", file=sys.stderr)
        if len(totals.reasons) > _MOST_REASONS:
            print(f"  and {len(totals.reasons) - _MOST_REASONS} further reasons", file=sys.stderr)
    return INCOMPLETE if ended.missing or totals.failed else DONE


class JobStopped(ConfigError):
    """Something outside has stopped a job: a full disk, a folder that cannot be written."""

    exit_code = FAILED


def not_written(error: OSError, folder: Path) -> JobStopped:
    """A failed write as an error that says how to go on."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    why = "the disk is full" if full else error.strerror or str(error)
    fix = "free some space" if full else "mend it"
    where = error.filename or folder
    return JobStopped(f"{where}: {why}; {fix} and run it again: what was written is kept")
