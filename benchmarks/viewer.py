"""The page of a long run: how soon it opens, how it scrolls, what it holds in memory.

    python benchmarks/viewer.py --rollouts 100000

The run is made up (`caprl_native/testing/made_runs.py`): the real terms and the real log, five
different steps, each written many times. The browser is headless Chromium, the server a process of
its own, both on this machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from common import ROOT, machine
from playwright.sync_api import Page, sync_playwright

from caprl_native.testing.made_runs import MadeRun
from caprl_native.viewer.document import write_export
from caprl_native.viewer.run import Run

STEP, N, DIFFERENT = 1000, 8, 5  # rollouts of a step and of a group; steps that are not repeated
SCROLL = """async () => {
  const box = document.getElementById("rows");
  const frames = [];
  let last = performance.now();
  for (let i = 0; i < 300; i += 1) {
    box.scrollTop += i % 60 === 59 ? 100000 : 700;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  return frames;
}"""


def make(folder: Path, rollouts: int) -> MadeRun:
    """A run of so many rollouts, a thousand a step."""
    groups, steps = STEP // N, rollouts // STEP
    run = MadeRun(folder, groups=groups, n=N, samples=groups * DIFFERENT)
    for step in range(1, DIFFERENT + 1):
        run.step(step)
    for step in range(1, DIFFERENT + 1):
        run.repeat(step, range(step + DIFFERENT, steps + 1, DIFFERENT))
    return run


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """The page's address, its server, and the seconds until it had one."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "tools/view_run.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        yield address, psutil.Process(process.pid), time.perf_counter() - began
        process.terminate()


def wait_for(page: Page, groups: int) -> None:
    """Until the list has so many groups."""
    page.wait_for_function(
        "n => document.getElementById('count').innerText.startsWith(n)",
        arg=f"{groups:,} of {groups:,}",
        timeout=120_000,
    )


def opened(page: Page, address: str, groups: int) -> float:
    """Seconds until the page shows the list of all groups."""
    began = time.perf_counter()
    page.goto(address)
    wait_for(page, groups)
    return time.perf_counter() - began


def measure(page: Page, run: MadeRun, groups: int) -> dict[str, Any]:
    with served(run.folder) as (address, server, started):
        first = opened(page, address, groups)
        again = [opened(page, address, groups) for _ in range(3)]
        frames = sorted(page.evaluate(SCROLL))
        found = {
            "server answers after, s": round(started, 2),
            "first opening, s": round(first, 2),
            "further openings, s": [round(t, 2) for t in again],
            "frame while scrolling, ms: median, 99%, longest": [
                round(t, 1)
                for t in (statistics.median(frames), frames[len(frames) * 99 // 100], frames[-1])
            ],
            "rows in the document": page.locator(".row").count(),
        }
        found["opening a group, s"] = round(group_opened(page), 2)
        found["search of all captions, s"] = round(searched(page), 2)
        found["server's memory, MiB"] = round(server.memory_info().rss / 2**20)
        heap = page.evaluate("performance.memory.usedJSHeapSize")
        found["page's heap, MiB"] = round(heap / 2**20)
        found["step on the page after its end, s"] = round(new_step(page, run, groups), 2)
        page.goto("about:blank")
    return found


def size_of(folder: Path) -> int:
    return round(sum(f.stat().st_size for f in folder.rglob("*.jsonl")) / 2**20)


def group_opened(page: Page) -> float:
    began = time.perf_counter()
    page.locator(".row").nth(3).click()
    page.wait_for_selector(".answers")
    return time.perf_counter() - began


def searched(page: Page) -> float:
    """A word that some captions have and others do not, from the last key to the last group."""
    began = time.perf_counter()
    page.fill("#filters [name=q]", '"something kitchen"')
    page.wait_for_function(
        "() => /^[\\d,]+ of/.test(document.getElementById('count').innerText)"
        " && !document.getElementById('count').innerText.startsWith('12,500 of')",
        timeout=60_000,
    )
    spent = time.perf_counter() - began
    page.click("#clear")
    return spent


def new_step(page: Page, run: MadeRun, groups: int) -> float:
    wait_for(page, groups)
    run.step(groups // (STEP // N) + 1)
    began = time.perf_counter()
    wait_for(page, groups + STEP // N)
    return time.perf_counter() - began


def without_index(page: Page, run: MadeRun, groups: int) -> dict[str, float]:
    """What a run of an earlier version has: the page is there at once, its list grows."""
    shutil.rmtree(run.folder / "index")
    with served(run.folder) as (address, _, _):
        began = time.perf_counter()
        page.goto(address)
        page.wait_for_selector(".row")
        first = time.perf_counter() - began
        wait_for(page, groups)
        whole = time.perf_counter() - began
        page.goto("about:blank")
    return {"first rows, s": round(first, 2), "all rows, s": round(whole, 2)}


def exported(run: MadeRun, mib: float) -> dict[str, Any]:
    path, began = run.folder.parent / "run.html", time.perf_counter()
    kept, count = write_export(path, [Run(run.folder)], mib)
    seconds = time.perf_counter() - began
    size = path.stat().st_size / 2**20
    return {"s": round(seconds, 1), "MiB": round(size), "groups whole": kept, "of": count}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        run = make(Path(name) / "runs/long", args.rollouts)
        groups = args.rollouts // N
        found: dict[str, Any] = {
            "rollouts": args.rollouts,
            "captions on the disk, MiB": size_of(run.folder / "rollouts"),
            "their index, MiB": size_of(run.folder / "index"),
        }
        launched = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--enable-precise-memory-info"],
        )
        page = launched.new_page(viewport={"width": 1300, "height": 850})
        found |= measure(page, run, groups)
        found["exported"] = exported(run, 64)
        found["without an index"] = without_index(page, run, groups + STEP // N)
        launched.close()
        print(json.dumps(found | {"machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
