"""Makes the demo's reader and policy from nothing, checks them, and ships them in demo_models/.

About an hour on two free cores. Everything in between lies in outputs/demo_models.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without an installation

from caprl_native.distributed.world import init_distributed  # noqa: E402
from caprl_native.testing.demo_world import checks, datasets  # noqa: E402
from caprl_native.testing.demo_world.scenes import every_text  # noqa: E402
from caprl_native.testing.tiny_models import write_tiny_reader, write_tiny_vlm  # noqa: E402

WORK = Path("outputs/demo_models")
SHIPPED = Path("demo_models")
INIT = 0.06
CAPTION_IMAGES, CAPTION_VIDEOS = 10000, 5000
POLICY_LRS = (2e-3, 1e-3, 3e-4)  # seeing, choosing, being sparse
MAX_BYTES = 10_000_000


def make_reader(seed: int) -> Path:
    """Readings, a random reader, supervised training; returns the trained model's folder."""
    files = datasets.write_readings(WORK / "data", seed)
    path = write_tiny_reader(WORK / "reader_random", every_text(), seed=seed, init=INIT)
    for stage, file in zip(("", "_more"), files, strict=True):
        data = f"--data.files=['{file}']"
        path = train("reader", seed, f"--policy.path={path}", data, stage=stage)
    return path


def make_policy(seed: int) -> Path:
    """Captioned scenes, a random policy, supervised training; returns the model's folder."""
    files = datasets.write_captions(WORK / "data", CAPTION_IMAGES, CAPTION_VIDEOS, seed)
    path = write_tiny_vlm(WORK / "policy_random", vocab_words=every_text(), seed=seed, init=INIT)
    for stage, file, lr in zip(("", "_more", "_sparse"), files, POLICY_LRS, strict=True):
        data = f"--data.files=['{file}']"
        path = train(
            "policy", seed, f"--policy.path={path}", f"--policy.lr={lr}", data, stage=stage
        )
    return path


def train(which: str, seed: int, *settings: str, stage: str = "") -> Path:
    """One core for each of the two, which are trained side by side; returns the model's folder."""
    command = ["-m", "caprl_native.sft", "--config", f"train_configs/demo_{which}_sft.toml"]
    folder = WORK / f"{which}_sft{stage}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier making
    subprocess.run(
        [sys.executable, *command, f"--run.dir={folder}", f"--run.seed={seed}", *settings],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    return folder / "export"


def ship(made: dict[str, Path]) -> None:
    """Copies the models to `SHIPPED`, their weights in bfloat16.

    Raises ValueError when they are too large to be committed.
    """
    for which, folder in made.items():
        target = SHIPPED / which
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        weights = load_file(target / "model.safetensors")
        halved = {name: weight.bfloat16() for name, weight in weights.items()}
        save_file(halved, target / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((target / "config.json").read_text())
        text = json.dumps({**config, "dtype": "bfloat16"}, indent=2)
        (target / "config.json").write_text(text + "\n")
    size = sum(f.stat().st_size for f in SHIPPED.rglob("*") if f.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"{SHIPPED} has {size} bytes, more than {MAX_BYTES}")
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")


def report(seed: int) -> None:
    """Prints what the shipped models can do on scenes that they have not seen."""
    init_distributed()
    reader = checks.open_reader(SHIPPED / "reader")
    print("\nreader")
    for name, share in checks.check_reader(reader, seed=seed + 1).items():
        print(f"  {name:32} {share:.3f}")
    world = datasets.write_world(WORK / "check", "check", 96, 48, seed + 1)
    painter = checks.Painter(SHIPPED / "policy", world)
    print("\npolicy, asked for everything: right mentions by attribute")
    for name, share in checks.recognition(painter.captions(full=True)).items():
        print(f"  {name:32} {share:.3f}")
    for title, temperature in (("greedy", 0.0), ("temperature 1", 1.0)):
        captions = painter.captions(temperature=temperature)
        rich = checks.richness(captions)
        print(f"\npolicy, {title}: {rich['mentioned']:.2f} attributes in {rich['words']:.1f} words")
        print(f"  captions with 0, 1, 2, ... attributes: {rich['histogram']}")
        print(f"  right mentions: {checks.recognition(captions).get('all', 0.0):.3f}")
        print(f"  reader right on all questions: {checks.accuracy(reader, captions)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check-only", action="store_true", help="check what is shipped already")
    args = parser.parse_args()
    os.chdir(ROOT)
    if not args.check_only:
        with ThreadPoolExecutor(2) as pool:
            jobs = {
                "reader": pool.submit(make_reader, args.seed),
                "policy": pool.submit(make_policy, args.seed),
            }
            ship({which: job.result() for which, job in jobs.items()})
    report(args.seed)


if __name__ == "__main__":
    main()
