"""The command line of the viewer.

    python tools/view_run.py outputs/video                       live, on this machine alone
    python tools/view_run.py outputs/video outputs/other         two runs beside each other
    python tools/view_run.py outputs/video --export run.html     one file, to keep or to send

It writes nothing into a run's folder. Exits with 2 where there is no run, or no such port.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from caprl_native.viewer.document import write_export
from caprl_native.viewer.run import NotARun, Run
from caprl_native.viewer.server import serve


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="view_run", description="A training run as a page: curves, captions, evidence."
    )
    parser.add_argument("runs", nargs="+", type=Path, help="a run's folder, or two to compare")
    parser.add_argument("--port", type=int, default=0, help="to listen at; 0: any that is free")
    parser.add_argument("--export", type=Path, help="write one file instead of serving")
    parser.add_argument(
        "--export-mib",
        type=float,
        default=64.0,
        help="of captions and pictures in that file at most; metrics and numbers are always whole",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted, or writes the file; returns the exit code."""
    args = arguments(argv)
    if len(args.runs) > 2:
        return _problem("expected one run, or two to compare")
    try:
        runs = [Run(folder) for folder in args.runs]
        if args.export:
            return _export(args.export, runs, args.export_mib)
        serve(runs, args.port, lambda url: print(url, flush=True))
    except KeyboardInterrupt:
        return 0
    except (NotARun, OSError) as error:
        return _problem(str(error))
    return 0


def _export(path: Path, runs: Sequence[Run], mib: float) -> int:
    kept, count = write_export(path, runs, mib)
    left = f"; {count - kept:,} more are numbers alone (--export-mib)" if kept < count else ""
    print(f"{path}: {kept:,} groups with captions and evidence{left}")
    return 0


def _problem(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2
