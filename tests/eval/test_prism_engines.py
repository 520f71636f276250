"""Evaluations with real engines: the demo's models on its scenes, in process and as Ray actors."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.ranks import ROOT, run_module

sys.path.insert(0, str(ROOT / "tools"))

from caprl_native.testing.demo_world.datasets import write_world  # noqa: E402

FULL = ["--captioner.image_prompt=Describe all of the image."]
FULL += ["--captioner.video_prompt=Describe all of the video."]


@dataclass(frozen=True)
class Runs:
    """Captions as the data ask for them; and of everything, compared with the first."""

    world: Path
    sparse: Path
    full: Path


def evaluate(world: Path, out: Path, *more: str) -> None:
    """The demo's captioner on these scenes, two captions each. Fails unless all is complete."""
    words = ["--config", str(ROOT / "train_configs" / "prism_demo.toml"), "--out", str(out)]
    words += [f"--captioner.path={ROOT}/demo_models/policy", f"--benchmarks.qa.files=['{world}']"]
    words += [f"--reader.path={ROOT}/demo_models/reader", "--captioner.n=2", *more]
    code, output = run_module("eval.prism", 1, *words, "--run.progress=false", timeout=400)
    assert code == 0, output[-6000:]


def items(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())["benchmarks"]["qa"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    return write_world(folder, "heldout", images=10, videos=5, seed=5)


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("prism")
    evaluate(world, folder / "sparse", "--tag", "sparse")
    evaluate(world, folder / "full", *FULL, "--captioner.n=1")
    evaluate(world, folder / "full", "--tag", "full", "--compare", str(folder / "sparse"), *FULL)
    return Runs(world, folder / "sparse", folder / "full")


def test_a_captioner_that_says_more_is_worth_more(runs: Runs) -> None:
    sparse, full = summary(runs.sparse), summary(runs.full)
    assert sparse["mean_ci"][1] < full["mean_ci"][0]
    assert sparse["caption_tokens"] < full["caption_tokens"]
    assert {r["media"][0]["kind"] for r in items(runs.full)} == {"image", "video"}
    for record in items(runs.full):
        for c in record["captions"]:
            assert c["text"] and c["finish"] == "stop" and c["tokens"] > 3
            assert c["verdict"]["score"] == float(c["verdict"]["said"] == record["answer"])
    table = (runs.full / "table.md").read_text()
    assert f"{sparse['mean'] - full['mean']:+.1f} (" in table


def test_the_captioner_answers_itself_without_a_system_turn(world: Path, tmp_path: Path) -> None:
    """Of images and videos, in process; no caption is made and no reader started."""
    words = ["--mode", "direct", "--captioner.system=", "--captioner.max_tokens=16"]
    evaluate(world, tmp_path / "run", *words)
    records, about = items(tmp_path / "run"), summary(tmp_path / "run")
    assert {r["media"][0]["kind"] for r in records} == {"image", "video"}
    for record in records:
        for c in record["captions"]:
            assert c["answer"]["text"] and not c["text"]
            assert c["verdict"]["score"] == float(c["verdict"]["said"] == record["answer"])
    assert about["caption_tokens"] is None and not any(about["missing"].values())


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def actors() -> list[psutil.Process]:
    """Processes of Ray actors that hold a model, or begin to."""
    return [p for p in descendants() if "ray::_Worker" in title(p)]


def title(process: psutil.Process) -> str:
    """What a process calls itself; empty for one that is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def listening() -> set[str]:
    """Where processes of Ray's own (not the models') listen: "name address"."""
    found = set()
    for process in descendants():
        with suppress(psutil.Error):
            name, words = process.name(), title(process)
            if name in ("gcs_server", "raylet") or "/ray/" in words or words.startswith("ray::R"):
                sockets = process.net_connections()
                found |= {f"{name} {c.laddr.ip}" for c in sockets if c.status == "LISTEN"}
    return found


def watch(over: threading.Event, killed: list[int], heard: set[str]) -> None:
    """Kills one of two actors as soon as both are there, and hears who listens where."""
    while not over.wait(0.05):
        if killed or len(found := actors()) < 2:
            continue
        heard |= listening()
        killed.append(found[0].pid)
        found[0].kill()


def test_two_replicas_give_the_same_items_though_one_is_killed(runs: Runs, tmp_path: Path) -> None:
    """And captions asked for together are those that were asked for one after the other."""
    over, killed, heard = threading.Event(), [], set()
    watching = threading.Thread(target=watch, args=(over, killed, heard))
    watching.start()
    try:
        evaluate(runs.world, tmp_path / "run", *FULL, "--replicas", "2", "--stage", "caption")
    finally:
        over.set()
        watching.join()
    assert len(killed) == 1
    assert {one.split()[0] for one in heard} >= {"gcs_server", "raylet"}
    assert {one.split()[1].removeprefix("::ffff:") for one in heard} == {"127.0.0.1"}
    evaluate(runs.world, tmp_path / "run", *FULL)
    assert items(tmp_path / "run") == items(runs.full)
