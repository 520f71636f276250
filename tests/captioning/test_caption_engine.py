"""Captioning with a real engine on real files: killed and resumed, it writes the same bytes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from caprl_native.testing.demo_world.datasets import write_world
from tests.ranks import ROOT, Forked, run_module

CLI = "caprl_native.captioning.cli"
MODEL = [f"--model={ROOT}/demo_models/policy", "--captioner.dtype=float32", "--max-tokens=48"]
MODEL += ["--captioner.kv_cache_gib=0.05", "--captioner.max_model_len=512", "--run.progress=false"]
MODEL += ["--captioner.max_num_seqs=4", "--run.chunk=4", "--media.image_max_pixels=16384"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of the demo, and a file that is none of them."""
    folder = tmp_path_factory.mktemp("captions") / "world"
    folder.mkdir()
    write_world(folder, "scenes", images=18, videos=3, seed=5)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def unbroken(world: Path) -> Path:
    output = world.parent / "unbroken.jsonl"
    code, said = run_module(CLI, 1, *MODEL, "--input", world, "--output", output, timeout=300)
    assert code == 3 and "1 of 22 entries have failed" in said, said[-4000:]
    return output


def results(work: Path) -> int:
    files = [*work.glob("open/*.jsonl"), *work.glob("chunks/*/*.jsonl")]
    return sum(f.read_bytes().count(b"\n") for f in files if f.exists())


def test_every_medium_has_its_caption(world: Path, unbroken: Path) -> None:
    rows = [json.loads(line) for line in unbroken.read_text().splitlines()]
    media = {p for p in world.rglob("*") if p.suffix in (".png", ".mp4") and p.stem != "broken"}
    assert {row.get("image") or row.get("video") for row in rows} == set(map(str, media))
    assert all(row["caption"] and row["tokens"] > 1 for row in rows)


def test_killed_and_resumed_it_writes_the_same(world: Path, unbroken: Path) -> None:
    output = world.parent / "killed.jsonl"
    words = [*MODEL, "--input", world, "--output", output]
    process = Forked(CLI, 1, *words, log=world.parent / "killed.log")
    work = output.with_name("killed.jsonl.work")
    while process.poll() is None and results(work) < 6:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    assert 6 <= results(work) < 22 and not output.exists()
    code, said = run_module(CLI, 1, *words, timeout=300)
    assert code == 3, said[-4000:]
    assert output.read_bytes() == unbroken.read_bytes()
