"""One world and one unbroken run, which several tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.train.world import Quick, make_world, rows, tiny_config, write_config, write_rows


@dataclass(frozen=True)
class Unbroken:
    """A run that nothing disturbed: its config file, its folder, and when each step was logged."""

    config: Path
    folder: Path
    times: list[float]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def unbroken(
    world: Path, tiny_policy: Path, tiny_reader: Path, tmp_path_factory: pytest.TempPathFactory
) -> Unbroken:
    """Five steps on two ranks in bfloat16, images and videos mixed, saved at every step.

    One question of the data cannot be asked, and is left out.
    """
    from kill_resume import run_unbroken

    folder = tmp_path_factory.mktemp("runs")
    config = tiny_config(world, tiny_policy, tiny_reader, folder / "unbroken")
    config.run.steps, config.run.export_every_save = 5, True
    records = rows(world / "train.jsonl")
    records[0]["questions"].append({"question": "?", "choices": ["A) x", "B) y"], "answer": "G"})
    config.data.files = [str(write_rows(folder / "train.jsonl", records))]
    config.data.media_root, config.data.invalid_questions = str(world), "drop"
    config.eval.every, config.data.eval_files = 2, [str(world / "heldout.jsonl")]
    config.alarms.first_steps = config.alarms.blind_every = 2
    file = write_config(config, folder / "run.toml")
    times = run_unbroken(Quick((str(file),)), folder / "unbroken")
    return Unbroken(file, folder / "unbroken", times)
