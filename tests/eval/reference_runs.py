"""Small runs against a server, in the reference's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caprl_native.testing.chat_server import Reply, Request
from eval.benchmarks.base import Files
from eval.prism import main
from tests.eval.worlds import spoken

MEDIA = ["--media.image_min_pixels=1024", "--media.video_fps=10", "--report.html=false"]


def scripted(request: Request) -> Reply:
    """A caption with the request's number for media, in turn right and wrong letters for text."""
    text, media = spoken(request["messages"])
    number = request["seed"] % 4
    if media:
        return Reply(f"caption {request['seed']}")
    return Reply(f"<think>So.</think><answer>\\boxed{{{'ABCD'[number]}}}</answer>")


def grades(request: Request) -> Reply:
    """2 of 3 points, whatever is asked."""
    return Reply("2")


def run(name: str, files: Files, url: str, out: Path, *more: str, judge: str = "") -> int:
    """An evaluation of one benchmark, its models at `url`; returns the exit code."""
    words = ["--benchmark", name, "--data-path", *map(str, files.paths)]
    words += ["--media-root", str(files.media_root)] if files.media_root else []
    words += ["--out", str(out), "--run.progress=false", "--captioner.n=2", *MEDIA]
    words += [w for t in ("captioner", "reader") for w in at(t, url)]
    words += at("judge", judge) if judge else ["--skip-judge"]
    return main([*words, *more])


def at(table: str, url: str) -> list[str]:
    return [f"--{table}.endpoint={url}", f"--{table}.model={table}/step_7", f"--{table}.retries=0"]


def items(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]


def part(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())["benchmarks"][name]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
