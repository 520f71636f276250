"""The demo's training for a few steps: killed, resumed to the end, exported; the export answers."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import MEDIA, ROOT
from kill_resume import Moment, Plan, finished, kill_at, metrics
from PIL import Image

from caprl_native import checkpoint
from caprl_native.data.media import DecodedImage
from caprl_native.policy.families import family_of
from caprl_native.policy.families.qwen import normalised
from caprl_native.policy.prompt import Prompt, PromptBuilder
from caprl_native.rollout.engine import Sampling
from caprl_native.testing.samples import sample
from smoke.engines import PolicyEngine
from smoke.findings import Check, Finding, Options, holds, run_part

STEPS, KILLED_AT = 6, 2
GAP = "mismatch/logprob_abs_mean"
WORLD = {"images": 24, "videos": 8, "heldout-images": 4, "heldout-videos": 2}
ANSWER = 16  # tokens
# Smaller batches than the demo's: a step is there to be gone through, not to teach.
SETTINGS = {
    "run.steps": STEPS,
    "run.save_every": 1,
    "run.keep": 2,
    "data.batch_size": 4,
    "rollout.n": 4,
    "rollout.max_tokens": 24,
    "eval.every": 0,
    "rollout.gpu_memory_utilization": 0.3,
}


def write_world(folder: Path) -> None:
    """The demo's pictures and clips, few of them."""
    counts = [f"--{name}={count}" for name, count in WORLD.items()]
    command = [sys.executable, str(ROOT / "tools" / "make_demo_world.py"), f"--out={folder}"]
    subprocess.run([*command, *counts], check=True, stdout=sys.stderr)


def plan_of(world: Path, cpu: bool) -> Plan:
    settings: dict[str, Any] = SETTINGS | {"data.files": [str(world / "train.jsonl")]}
    if not cpu:
        settings |= dict.fromkeys(("policy.dtype", "reward.reader.dtype"), "bfloat16")
        settings["reward.reader.enforce_eager"] = "true"  # two starts: graphs of one are enough
    files = (str(ROOT / "train_configs" / "demo.toml"),)
    ranks = 1 if cpu else min(2, torch.cuda.device_count())
    return Plan(files, tuple(f"--{name}={value}" for name, value in settings.items()), ranks)


class Demo:
    """A run, and its export."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.world, self.run = options.scratch / "world", options.scratch / "run"
        write_world(self.world)
        self.plan = plan_of(self.world, options.cpu)
        self.export = self.run / "export"

    def log(self) -> None:
        """What the run printed goes to this part's own log."""
        print(self.run.with_suffix(".log").read_text(errors="replace"), file=sys.stderr)

    def killed(self) -> Finding:
        """SIGKILL to the launcher and all ranks, as soon as a step is logged."""
        try:
            killed = kill_at(self.plan, self.run, Moment(KILLED_AT, 0.0))
        finally:
            self.log()
        saved = checkpoint.steps(self.run / "checkpoints")
        told = f"checkpoints of steps {saved}" if killed else "it came to its end before"
        return holds(told, killed and bool(saved) and saved[-1] < STEPS, "one checkpoint or more")

    def resumed(self) -> Finding:
        """Every step is in the metrics once, with finite numbers."""
        try:
            finished(self.plan.start(self.run, resume=True), self.run)
        finally:
            self.log()
        lines = [m for m in metrics(self.run) if "policy/loss" in m]
        steps = [int(m["step"]) for m in lines]
        losses = [m["policy/loss"] for m in lines]
        good = steps == list(range(1, STEPS + 1)) and all(map(math.isfinite, losses))
        return holds(f"steps {steps}", good, f"1 to {STEPS}, finite")

    def gaps(self) -> Finding:
        """The run's own |log p(trainer) - log p(engine)|, the largest of the steps' means."""
        found = [v for m in metrics(self.run) for k, v in m.items() if k == GAP]
        worst = max(found, default=math.inf)
        bound = self.options.max_gap
        return holds(f"{worst:.4f} of {len(found)} steps", worst <= bound, f"<= {bound:g}")

    def prompt(self) -> Prompt:
        """On a held-out picture."""
        rows = map(json.loads, (self.world / "heldout.jsonl").read_text().splitlines())
        name = next(row["image"] for row in rows if "image" in row)
        picture = DecodedImage(Image.open(self.world / name).convert("RGB"))
        return PromptBuilder(str(self.export), MEDIA)(sample("image"), [picture])

    def transformers_answers(self) -> Finding:
        from transformers import AutoModelForImageTextToText

        from caprl_native.policy.model import load_whole

        device = "cpu" if self.options.cpu else "cuda"
        hf: Any = load_whole(AutoModelForImageTextToText, self.export, dtype=torch.bfloat16)
        prompt = self.prompt()
        assert prompt.media is not None
        inputs = {
            "input_ids": prompt.ids[None],
            "mm_token_type_ids": prompt.token_types[None],
            "pixel_values": normalised(prompt.media).to(torch.bfloat16),
            "image_grid_thw": prompt.media["grid"],
        }
        banned = list(family_of(self.export).banned_token_ids(hf.config))
        (ids,) = hf.to(device).generate(
            **{k: v.to(device) for k, v in inputs.items()},
            max_new_tokens=ANSWER,
            do_sample=False,
            suppress_tokens=banned,
        )
        return self.said(prompt, ids[len(prompt) :].tolist())

    def said(self, prompt: Prompt, ids: list[int]) -> Finding:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.export)
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        return holds(repr(text[:60]), bool(text), "a text")

    def vllm_answers(self) -> Finding:
        from transformers import AutoConfig

        from caprl_native.distributed.world import init_distributed

        init_distributed()
        prompt = self.prompt()
        side = PolicyEngine(
            self.options, path=str(self.export), prompts=[prompt], sleep=False, eager=True
        )
        config = AutoConfig.from_pretrained(self.export)
        banned = tuple(family_of(self.export).banned_token_ids(config))
        sampling = Sampling(temperature=0.0, max_tokens=ANSWER, banned=banned)
        (out,) = side.engine.generate([prompt.for_engine()], sampling, [0])
        side.engine.close()
        return self.said(prompt, out.completions[0].token_ids)


def checks(options: Options) -> Iterator[Check]:
    """In this order: what follows needs what came before."""
    shutil.rmtree(options.scratch / "run", ignore_errors=True)
    made = Demo(options)
    yield f"killed by SIGKILL after step {KILLED_AT}", made.killed
    yield "resumed to the end", made.resumed
    yield "log-prob gap of the run, nats", made.gaps
    yield "the export by transformers", made.transformers_answers
    yield "the export by vLLM", made.vllm_answers


if __name__ == "__main__":
    run_part("demo", checks)
