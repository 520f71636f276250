"""A whole step, ours against TRL's: captions, rewards, an update, the weights back to the engine.

    python benchmarks/step.py SHAPE
    python benchmarks/step.py video --vocabulary 151936     the peak memory of the training phase

Both sides run at the same time, each in a process of its own with all cores, and take turns step by
step. Same model, prompts, images, lengths, reward and precision: float32 on a CPU, bfloat16 on
CUDA. TRL's trainer takes images only, so a video is given to both as images, one for two frames.
Captions have a fixed length; the reward is a function of the text that costs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from typing import Any

from common import MODEL, ROOT, SHAPES, summary
from tqdm import tqdm

from caprl_native.testing.tiny_models import write_tiny_vlm


class Side:
    """A process that does a step when it is told to."""

    def __init__(self, name: str, shape: str, folder: str) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "step_side.py"), name, shape, folder]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = self._read()
        self.found: list[dict[str, Any]] = []

    def step(self) -> None:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        self.found.append(self._read())

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def compare(name: str, vocabulary: int, repeats: int) -> dict[str, Any]:
    shape = SHAPES[name]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        write_tiny_vlm(folder, **MODEL, vocab_size=vocabulary)
        sides = [stack.enter_context(Side(side, name, folder)) for side in ("ours", "trl")]
        ours, trl = sides
        if ours.about["prompt"] != trl.about["prompt"]:
            raise RuntimeError(f"{name}: prompts differ: {ours.about} and {trl.about}")
        repeats = repeats or shape.repeats
        bar = tqdm(range(shape.warmup + repeats), desc=f"step, {name}")
        for _ in bar:
            for side in sides:
                side.step()
            bar.set_postfix({s.name: f"{s.found[-1]['seconds']:.0f} s" for s in sides})
    kept = {side.name: side.found[-repeats:] for side in sides}
    ratios = [t["seconds"] / o["seconds"] for o, t in zip(kept["ours"], kept["trl"], strict=True)]
    found: dict[str, Any] = {
        "prompt": ours.about["prompt"],
        "response": shape.response,
        "vocabulary": vocabulary,
        "trl_mode": trl.about["mode"],
        "ratio": summary(ratios),
    }
    for side, steps in kept.items():
        found[f"{side}_s"] = summary([s["seconds"] for s in steps])
        found[f"{side}_bytes"] = max(s["peak_bytes"] for s in steps)
        found[f"{side}_phases"] = {
            phase: summary([s["phases"][phase] for s in steps]) for phase in steps[0]["phases"]
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--vocabulary", type=int, default=0, help="entries; 0: the tokenizer's")
    parser.add_argument("--repeats", type=int, default=0, help="0: the shape's")
    args = parser.parse_args()
    print(json.dumps(compare(args.shape, args.vocabulary, args.repeats)))


if __name__ == "__main__":
    main()
