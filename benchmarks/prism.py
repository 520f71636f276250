"""An evaluation of 2,000 items on the demo's models: what it takes beyond the engines' own time.

    python benchmarks/prism.py            images and clips are decoded by threads of this process

The engines' time is that of their start, of taking requests (templates, tokens, image processing)
and of their passes; all else is overhead: files, decoding that holds an engine up, keys, scores,
reports.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT

from caprl_native.inference.engine_model import EngineModel
from caprl_native.rollout.engine import Engine
from eval.prism import main as evaluate

sys.path.insert(0, str(ROOT / "tools"))

from caprl_native.testing.demo_world.datasets import write_world  # noqa: E402

ITEMS = 2000
IMAGES, VIDEOS = 220, 60  # with seven questions or more on each


class Clock:
    """Seconds spent inside some methods."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, owner: type, name: str) -> None:
        """Counts what this method takes from now on."""
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        setattr(owner, name, timed)


def measure(folder: Path) -> dict[str, Any]:
    world = write_world(folder, "heldout", images=IMAGES, videos=VIDEOS, seed=0)
    clock = Clock()
    for owner, name in (
        (EngineModel, "__init__"),
        (EngineModel, "close"),
        (EngineModel, "_tokens"),
        (Engine, "submit"),
        (Engine, "step"),
    ):
        clock.on(owner, name)
    words = ["--config", str(ROOT / "train_configs" / "prism_demo.toml"), "--out", f"{folder}/run"]
    words += [f"--captioner.path={ROOT}/demo_models/policy", f"--benchmarks.qa.files=['{world}']"]
    words += [f"--reader.path={ROOT}/demo_models/reader", "--limit", str(ITEMS)]
    began = time.perf_counter()
    if code := evaluate(words):
        raise RuntimeError(f"the evaluation ended with {code}")
    seconds = time.perf_counter() - began
    summary = json.loads((folder / "run" / "summary.json").read_text())["benchmarks"]["qa"]
    return {
        "items": summary["items"],
        "captions_per_item": summary["n"],
        "seconds": seconds,
        "engine_s": clock.seconds,
        "overhead": seconds / clock.seconds - 1,
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # libraries print to stdout
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder))), file=answers, flush=True)


if __name__ == "__main__":
    main()
