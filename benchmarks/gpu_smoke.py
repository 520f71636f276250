"""Proves on a GPU, within 20 minutes, that kernels, updates, engines and a whole run work.

    python benchmarks/gpu_smoke.py                         all parts
    python benchmarks/gpu_smoke.py --only kernels --only updates
    python benchmarks/gpu_smoke.py --cpu                   their CPU equivalents, tiny models

Every part is a process of its own with a limit of time, so that what aborts one does not hide the
others; its output goes to a log. Prints a table, writes it as JSON with the hardware and versions,
and ends with 1 if any check failed, 2 where it cannot run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smoke.findings import Options, Row, arguments, parser, row_from

HERE = Path(__file__).resolve().parent
# Seconds that a part may take; 20 minutes in all.
LIMITS = {"kernels": 200, "updates": 220, "engine": 260, "two_engines": 140, "demo": 380}
CPU_LIMIT = 600  # of each part's CPU equivalent, which shares its cores with other tests
LAUNCHER = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
TABLE = ("part", "checked", "figure", "bound", "", "seconds")
WIDTHS = (12, 62, 34, 22, 5, 8)


def command_line() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parser()],
    )
    made.add_argument("--only", action="append", choices=LIMITS, help="this part; repeatable")
    made.add_argument("--out", type=Path, help="the JSON file; default: results/gpu_smoke-DEVICE")
    return made.parse_args()


def run_part(name: str, options: Options, log: Path) -> list[Row]:
    """A part's rows, and a failed one if its process did not come to a good end."""
    command = [sys.executable, "-m", f"smoke.{name}", *arguments(options)]
    limit = CPU_LIMIT if options.cpu else LIMITS[name]
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=output, env=environment(), text=True
        )
        try:
            lines, _ = process.communicate(timeout=limit)
            ended = f"ended with {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            end(process)
            lines, _ = process.communicate()
            ended = f"took more than {limit} s"
        except BaseException:
            end(process)
            raise
    rows = [row_from(line) for line in lines.splitlines()]
    if ended or not rows:
        seconds = time.perf_counter() - began - sum(r.seconds for r in rows)
        rows.append(Row(name, "the process", ended or "no check", "a good end", False, seconds))
    return rows


def environment() -> dict[str, str]:
    """This process's, with the project on the path and no network. A part is a run of one rank of
    its own, whatever launcher this process comes from."""
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **{name: value for name, value in os.environ.items() if name not in LAUNCHER},
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def end(process: subprocess.Popen[str]) -> None:
    """Kills a part with all that it started."""
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for child in family:
        if child.is_running():
            child.send_signal(signal.SIGKILL)


def line(cells: tuple[str, ...]) -> str:
    """A line of the table; columns start at the same places where the cells before are short."""
    return "  ".join(f"{c:<{w}}" for c, w in zip(cells, WIDTHS, strict=True)).rstrip()


def line_of(row: Row) -> str:
    figure = row.figure if isinstance(row.figure, str) else f"{row.figure:.6g}"
    verdict = ("ok" if row.bound else "-") if row.ok else "FAIL"
    return line((row.part, row.what, figure, row.bound, verdict, f"{row.seconds:.1f}"))


def hardware(cpu: bool) -> dict[str, Any]:
    """The device, its driver, and the libraries' versions."""
    import torch
    from common import machine

    found = machine() | {"cuda": torch.version.cuda, "driver": driver()}
    if not cpu:
        found["gpus"] = torch.cuda.device_count()
        found["gpu_memory_gib"] = round(torch.cuda.mem_get_info()[1] / 2**30, 1)
    return found


def driver() -> str | None:
    """The driver's version, by its own tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=60)
    return told.stdout.strip().partition("\n")[0] or None


def refusal() -> str:
    """Why the GPU parts cannot run here; empty where they can."""
    import torch

    if torch.cuda.is_available():
        return ""
    return (
        f"no CUDA device: torch {torch.__version__} is built for CUDA {torch.version.cuda}, the "
        f"driver is {driver() or 'not there'}; --cpu runs the CPU equivalents on tiny models"
    )


def main() -> None:
    args = command_line()
    if args.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of this process too, before torch is imported
    elif problem := refusal():
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
    here = hardware(args.cpu)
    print(f"{here['device']}, {here['versions']}, driver {here['driver']}", flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", here["device"].lower()).strip("-")
    out = args.out or HERE / "results" / f"gpu_smoke-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    rows = all_rows(args, out)
    report = {
        "machine": here,
        "cpu": args.cpu,
        "ok": all(row.ok for row in rows),
        "seconds": round(time.perf_counter() - began, 1),
        "rows": [asdict(row) for row in rows],
    }
    out.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join([line(TABLE), *map(line_of, rows)]))
    failed = sum(not row.ok for row in rows)
    print(f"{len(rows)} checks, {failed} failed, {report['seconds']:.0f} s; {out}")
    raise SystemExit(1 if failed else 0)


def all_rows(args: argparse.Namespace, out: Path) -> list[Row]:
    """Those of every part that was asked for; the logs of failed ones stay beside `out`."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="gpu_smoke") as scratch:
        options = Options(Path(scratch), args.cpu, args.max_gap, args.max_memory_ratio)
        for name in dict.fromkeys(args.only or LIMITS):
            log = out.with_name(f"{out.stem}-{name}.log")
            began = time.perf_counter()
            found = run_part(name, options, log)
            failed = sum(not row.ok for row in found)
            told = f"{name}: {len(found)} checks, {failed} failed"
            told += f", {time.perf_counter() - began:.0f} s"
            print(f"{told}; log: {log}" if failed else told, file=sys.stderr, flush=True)
            if not failed:
                log.unlink()
            rows += found
    return rows


if __name__ == "__main__":
    main()
