"""A small world of images and videos, the config of a tiny run on it, and ways to start one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from caprl_native.config.cli import dump
from caprl_native.config.flat import FlatConfig
from caprl_native.config.schema import Config
from tests.ranks import ROOT, Forked, forking, run_module

sys.path.insert(0, str(ROOT / "tools"))  # kill_resume, and the demo's world

from kill_resume import Plan, again  # noqa: E402
from launch import torchrun  # noqa: E402


def make_world(folder: Path, images: int = 20, videos: int = 12) -> Path:
    """Real PNG and MP4 files with questions: train.jsonl and heldout.jsonl."""
    command = [sys.executable, "tools/make_demo_world.py", f"--out={folder}"]
    command += [f"--images={images}", f"--videos={videos}"]
    command += ["--heldout-images=2", "--heldout-videos=2"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_rows(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def tiny_config(world: Path, policy: Path, reader: Path | str, folder: Path) -> Config:
    """Two steps of 8 prompts with 4 captions each; every part of the reward is on."""
    config = Config()
    config.run.dir, config.run.steps, config.run.save_every = str(folder), 2, 1
    config.run.export_every_save = False
    config.data.files = [str(world / "train.jsonl")]
    config.data.batch_size, config.data.max_prompt_tokens, config.data.workers = 8, 400, 0
    media = config.media
    media.image_min_pixels, media.image_max_pixels = 32 * 32, 128 * 128
    media.video_fps, media.video_max_frames = 1.0, 6
    media.video_frame_pixels, media.video_total_pixels = 128 * 128, 6 * 128 * 128
    config.policy.path, config.policy.lr = str(policy), 1e-3
    config.policy.micro_batch_tokens = 4096
    rollout = config.rollout
    rollout.n, rollout.max_tokens, rollout.max_model_len, rollout.kv_cache_gib = 4, 24, 512, 0.05
    # As published: a random reader's accuracy is mostly flat, and length must have a gradient.
    config.algorithm.flat, config.reward.gate = FlatConfig(by="total", spread=0.0), False
    reward = config.reward
    reward.terms = {
        "accuracy": {"questions": "own", "answers": "sampled", "draws": 2},
        "timestamps": {"weight": 0.2, "rule": "release"},
        "length": {"weight": 0.2, "l1": 8, "l2": 32},
    }
    if str(reader).startswith("http"):
        reward.reader.endpoint, reward.reader.model = str(reader), "reader"
    else:
        reward.reader.path = str(reader)
    reward.reader.max_model_len, reward.reader.kv_cache_gib = 512, 0.05
    config.eval.every = 0
    config.log.wandb = "disabled"
    return config


def write_config(config: Config, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump(config))
    return file


def train(file: Path, *settings: str, ranks: int = 2, timeout: float = 600) -> tuple[int, str]:
    """Exit code and output of a training run."""
    return run_module("caprl_native.train", ranks, "--config", file, *settings, timeout=timeout)


def train_ok(config: Config, file: Path, *, ranks: int = 2) -> Path:
    """Trains to the end; returns the run's folder."""
    code, output = train(write_config(config, file), ranks=ranks)
    assert code == 0, output[-6000:]
    return Path(config.run.dir)


class Quick(Plan):
    """Starts the same ranks without waiting for their imports, under a launcher of the tests'."""

    def start(self, folder: Path, resume: bool = False) -> Forked:
        log = folder.with_suffix(".log")
        return Forked("caprl_native.train", self.ranks, *self.words(folder, resume), log=log)

    def words(self, folder: Path, resume: bool) -> list[str]:
        words = ["--config", *self.files, *self.settings, f"--run.dir={folder}"]
        return words + again(folder, resume)


class Launched(Quick):
    """The same under torchrun, which is a fork, too, and forks the ranks."""

    def start(self, folder: Path, resume: bool = False) -> Forked:
        launcher, *words = forking(torchrun(self.ranks), "caprl_native.train")
        words += self.words(folder, resume)
        return Forked(launcher, 0, *words, log=folder.with_suffix(".log"))
