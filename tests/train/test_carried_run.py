"""A run whose prompts are made of what earlier captions left: long videos, in three stages."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from kill_resume import Moment, differences, finished, kill_at, run_unbroken

from caprl_native import checkpoint
from caprl_native.config.schema import Config
from tests.data.segments import write_rows
from tests.train.test_loop import check_agreement, steps
from tests.train.world import Quick, rows, tiny_config, write_config

VIDEOS = {"film": 3, "show": 3, "talk": 3}
FORMAT = '''
"""Memory records whose captions leave their first words, since a random policy writes no JSON."""

from dataclasses import dataclass, replace

from caprl_native.data.record_formats import FORMATS
from caprl_native.data.record_formats.memory import Memory, Segment
from caprl_native.rewards.base import Score


@dataclass(frozen=True)
class Words(Segment):
    def text_of(self, written):
        return " ".join(written.split()[:6]) or None


class Tolerant(Memory):
    def parse(self, raw, reading):
        sample = super().parse(raw, reading)
        return replace(sample, carried=Words(**vars(sample.carried)))


FORMATS.add("a_tolerant_memory", Tolerant())


def words(caption):
    """Few letters twice: enough for rewards to differ; half of the captions are right."""
    value = len(set(caption.text)) / 30
    told = caption.sample.context.split()
    return Score(value, parts={"correct": float(len(caption.text) % 2), "told": float(len(told))})
'''


@pytest.fixture(scope="module")
def config(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Six steps on two ranks: three stages of three samples, in batches of two and one."""
    folder = tmp_path_factory.mktemp("segments")
    (folder / "tolerant.py").write_text(FORMAT)
    config = tiny_config(folder, tiny_policy, "", folder / "run")
    config.plugins = [str(folder / "tolerant.py")]
    config.run.steps, config.run.epochs, config.run.export = 0, 1, False
    config.data.files = [str(write_rows(folder, VIDEOS, clips=True))]
    config.data.batch_size, config.data.curriculum, config.data.workers = 2, "step", 1
    config.data.max_prompt_tokens, config.rollout.max_model_len = 600, 640
    config.data.history.pick = "none_if_wrong"
    config.log.per_sample = "memory_log"
    path = f"{folder}/tolerant.py:words"
    config.reward.terms = {"words": {"type": "custom", "import_path": path}}
    return config


@pytest.fixture(scope="module")
def plan(config: Config) -> Quick:
    return Quick((str(write_config(config, Path(config.run.dir).with_suffix(".toml"))),))


@pytest.fixture(scope="module")
def unbroken(config: Config, plan: Quick) -> tuple[Path, list[float]]:
    folder = Path(config.run.dir)
    return folder, run_unbroken(plan, folder)


def test_histories_grow_and_are_told(unbroken: tuple[Path, list[float]]) -> None:
    folder, _ = unbroken
    check_agreement(folder, 6)  # images and a video in each prompt
    logs = [rows(folder / f"rollouts/step_{k:06d}.jsonl") for k in range(1, 7)]
    assert [sorted({r["id"][-1] for r in log}) for log in logs] == [[s] for s in "001122"]
    assert [len({r["id"] for r in log}) for log in logs] == [2, 1] * 3
    left = {video: {} for video in VIDEOS}
    for log in logs:
        for identity in {r["id"] for r in log}:
            video, _, key = identity.partition("*")
            group = [r for r in log if r["id"] == identity]
            right = [r for r in group if r["parts"]["words/correct"]]
            best = max(right, key=lambda r: r["total"], default={"caption": ""})
            left[video][key] = " ".join(best["caption"].split()[:6])
            told = " ".join(left[video][str(i)] for i in range(int(key)))
            for r in group:
                assert r.get("context", "") == told
                assert told in r["prompt"] and r["prompt"].count("<video>") == 1
    found = {v: json.loads((folder / f"history/{v}.json").read_text()) for v in VIDEOS}
    assert found == left and any(text for texts in left.values() for text in texts.values())
    for line in steps(folder):
        kept, empty = line["data/texts_left"], line["data/texts_empty"]
        assert kept + empty == (2 if line["step"] % 2 else 1)


def test_each_sample_has_a_log_of_its_own(unbroken: tuple[Path, list[float]]) -> None:
    folder, _ = unbroken
    files = sorted((folder / "memory_log").glob("*/*.json"))
    assert len(files) == 9
    for file in files:
        log = json.loads(file.read_text())
        assert (log["id"], str(log["global_step"])) == (file.stem, file.parent.name)
        assert log["type"] == "episodic_on_policy" and log["num_items"] == len(log["items"]) == 4
        assert all({"input", "caption", "rewards", "parts"} <= item.keys() for item in log["items"])


def test_killed_and_resumed_it_ends_the_same(
    unbroken: tuple[Path, list[float]], plan: Quick, tmp_path: Path
) -> None:
    whole, times = unbroken
    folder, rng = tmp_path / "run", random.Random()
    step = rng.randint(1, 5)
    moment = Moment(step, rng.uniform(0, times[step] - times[step - 1]), victim="all")
    killed = kill_at(plan, folder, moment)
    print(moment, killed, checkpoint.steps(folder / "checkpoints"))  # shown where the test fails
    (folder / "history").mkdir(exist_ok=True)
    (folder / "history/film.json").write_text('{"0": "of the future", "9": "x"}')
    (folder / "history/other.json").write_text("{}")
    resume = bool(checkpoint.steps(folder / "checkpoints"))
    finished(plan.start(folder, resume=resume), folder)
    assert differences(whole, folder) == []
