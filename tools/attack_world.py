"""What tools/attacks.py attacks: a tiny captioner, trained by supervision or by reinforcement."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
from kill_resume import ROOT, Plan, differences, ended, run_unbroken, steps_logged, wait_for
from PIL import Image

sys.path.insert(0, str(ROOT))  # works without an installation

from caprl_native.config.cli import dump  # noqa: E402
from caprl_native.config.flat import FlatConfig
from caprl_native.config.schema import Config, SftConfig  # noqa: E402
from caprl_native.testing.tiny_models import write_tiny_reader, write_tiny_vlm  # noqa: E402

LIMIT_S = 300.0  # for every wait; what takes longer hangs
RECORDS = 24


class Wrong(Exception):
    """An attack ended otherwise than it should."""


@dataclass
class Target:
    """A run to attack. `settings` are for all its runs; `folder` is that of the attack under way.

    `unbroken` is the folder of a run that nothing disturbed.
    """

    plan: Plan
    unbroken: Path
    steps: int
    folder: Path = field(default_factory=Path)
    heard: int = 0  # length of the log before the last start

    def start(self, *settings: str, resume: str = "", file_limit: int = 0) -> subprocess.Popen:
        """Starts a run in the folder: from the beginning, or from a step or "latest".

        `file_limit` (bytes): no file may grow larger, which is a full disk that needs no root.
        """
        self.heard = len(self.log())
        given = [*settings, *([f"--run.resume={resume}"] if resume else [])]
        plan = replace(self.plan, settings=(*self.plan.settings, *given))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, before[1]))
        try:
            return plan.start(self.folder, over=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def log(self) -> str:
        """All that runs in the folder have printed."""
        file = self.folder.with_suffix(".log")
        return file.read_text(errors="replace") if file.exists() else ""

    def until(self, condition: Callable[[], object], process: subprocess.Popen) -> None:
        """Waits for something that a run does."""
        if not wait_for(condition, process):
            raise Wrong(f"the run ended before it was attacked:\n{self.log()[-3000:]}")

    def at(self, step: int, process: subprocess.Popen) -> None:
        """Waits until a step is logged."""
        self.until(lambda: steps_logged(self.folder) >= step, process)

    def exact(self, *settings: str, resume: str = "latest") -> str:
        """Goes on to the end, which must be a good one and the same as if nothing had been."""
        if code := ends(self.start(*settings, resume=resume)):
            raise Wrong(f"ended with {code}:\n{self.log()[-3000:]}")
        return self.same()

    def same(self) -> str:
        """Raises Wrong unless the folder is the undisturbed run's, bit for bit."""
        if wrong := differences(self.unbroken, self.folder):
            raise Wrong(f"differs in {', '.join(wrong)}")
        return "exact"

    def refused(self, process: subprocess.Popen, *words: str) -> str:
        """The run must end by itself, not with 0, with one sentence that holds these words."""
        return self.ended(process, "error: ", *words, good=False)

    def ended(self, process: subprocess.Popen, mark: str, *words: str, good: bool) -> str:
        """The run must end by itself, with 0 if `good`, and one sentence that holds the words."""
        code = ends(process)
        printed = self.log()[self.heard :]
        said = [line for line in printed.splitlines() if line.startswith(mark)]
        ours = any("/caprl_native/" in t for t in printed.splitlines() if t.startswith('  File "'))
        if (
            good != (code == 0)
            or len(said) != 1
            or ours
            or any(word not in said[0] for word in words)
        ):
            raise Wrong(f"ended with {code}, wanted {words}, got:\n{printed[-3000:]}")
        return said[0].removeprefix(mark)


def ends(process: subprocess.Popen) -> int:
    """The exit code. Raises Wrong for a run that hangs."""
    with ended(process):
        try:
            return process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Wrong(f"hangs: not done after {LIMIT_S:.0f} s") from None


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The ranks under a launcher, in the order that they were started."""
    return sorted(psutil.Process(process.pid).children(), key=lambda p: p.pid)


def loader_workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The loader processes of all ranks: children of a fork server."""
    servers: list[psutil.Process] = []
    try:
        for found in psutil.Process(process.pid).children(recursive=True):
            if "multiprocessing.forkserver" in " ".join(found.cmdline()):
                servers.append(found)
    except psutil.Error:  # one that has ended meanwhile; the next look shows who is left
        return []
    ids = {p.pid for p in servers}
    return [p for p in servers if parent_of(p) in ids]


def parent_of(process: psutil.Process) -> int:
    """The parent's id; 0 for a process that has ended."""
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def write_world(folder: Path, records: int, sizes: Sequence[int]) -> Path:
    """Pictures of these heights and widths in turn, with questions and responses: data.jsonl."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for i in range(records):
        shape = (sizes[i % len(sizes)], sizes[i * 7 % len(sizes)], 3)
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / f"{i}.png")
        asked = {"question": "Which?", "choices": ["red", "blue", "green"], "answer": "ABC"[i % 3]}
        row = {"image": f"{i}.png", "prompt": "Describe it.", "questions": [asked]}
        rows.append(row | {"response": ["a", "the picture", "an image of it"][i % 3]})
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder / "data.jsonl"


def make_targets(out: Path, kinds: set[str]) -> dict[str, Target]:
    """The world, the tiny models, and an undisturbed run of each kind, "sft" or "rl"."""
    write_world(out / "world", RECORDS, [64])
    policy, reader = write_tiny_vlm(out / "policy"), write_tiny_reader(out / "reader")
    targets = {}
    if "sft" in kinds:
        targets["sft"] = _target(out, "sft", _sft_config(policy), "caprl_native.sft")
    if "rl" in kinds:
        targets["rl"] = _target(out, "rl", rl_config(policy, reader), "caprl_native.train")
    return targets


def _target(out: Path, name: str, config: Config | SftConfig, module: str) -> Target:
    config.data.files, config.data.batch_size = [str(out / "world/data.jsonl")], 4
    config.data.workers, config.data.max_prompt_tokens = 1, 200
    config.media.image_min_pixels, config.media.image_max_pixels = 32 * 32, 64 * 64
    config.run.keep, config.run.threads = 0, 1
    config.policy.lr, config.log.wandb, config.log.progress = 1e-3, "disabled", False
    file = out / f"{name}.toml"
    file.write_text(dump(config))
    target = Target(Plan((str(file),), module=module), out / name / "unbroken", config.run.steps)
    times = run_unbroken(target.plan, target.unbroken)
    print(f"{name}: {config.run.steps} steps, {times[-1]:.1f} s undisturbed", flush=True)
    return target


def _sft_config(policy: Path) -> SftConfig:
    config = SftConfig()
    config.policy.path, config.run.steps, config.run.save_every = str(policy), 40, 10
    return config


def rl_config(policy: Path, reader: Path) -> Config:
    """Six steps of four short captions a prompt, every part of the reward but time stamps on."""
    config = Config()
    config.policy.path, config.run.steps, config.run.save_every = str(policy), 6, 2
    rollout, reward = config.rollout, config.reward
    rollout.n, rollout.max_tokens, rollout.max_model_len, rollout.kv_cache_gib = 4, 16, 256, 0.25
    reward.reader.path, reward.reader.max_model_len = str(reader), 256
    reward.reader.kv_cache_gib = 0.25
    # A random reader's accuracy is mostly flat: length must have a gradient, too.
    config.algorithm.flat, reward.gate = FlatConfig(by="total", spread=0.0), False
    length = {"weight": 0.2, "l1": 8, "l2": 16}
    reward.terms = {
        "accuracy": {"questions": "own", "answers": "sampled", "draws": 2},
        "length": length,
    }
    config.eval.every = 0
    return config
