"""Whatever one adds is one file: `--help` lists it, a run uses it, its metrics show it.

The files are as CONTRIBUTING.md says. One run of two steps carries a reward term, a loss, an
advantage, a record format and a family; an evaluation carries a benchmark.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from caprl_native.config.cli import dump
from caprl_native.testing.chat_server import Reply, serve
from caprl_native.testing.media_files import write_mp4, write_noise
from tests.ranks import ROOT
from tests.train.world import rows, tiny_config, train, write_rows


def example(document: str, part: str) -> str:
    """The block of Python code in a document that has this part."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (block,) = (block for block in blocks if part in block)
    return block


FILES = {
    "beyond.py": '''
"""A reward term: the tokens of a caption, modulo a number."""

from concurrent.futures import Future
from typing import Literal

from pydantic import Field

from caprl_native.rewards.base import TERMS, Caption, RewardTerm, Score, TermOptions, finished


class BeyondOptions(TermOptions):
    """Tokens beyond the last whole point."""

    type: Literal["beyond"] = "beyond"
    every: int = Field(7, ge=1, description="Tokens for a whole point.")


@TERMS.register(BeyondOptions)
class Beyond(RewardTerm[BeyondOptions]):
    def submit(self, caption: Caption) -> Future[Score]:
        return finished(caption.tokens % self.options.every / self.options.every)
''',
    "halved.py": '''
"""A loss: REINFORCE of a chosen size, which says of every token that it was clipped low."""

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.inputs import LossInputs, TokenTerms
from caprl_native.algorithm.registries import LOSSES
from caprl_native.registry import Options


class Halved(Options):
    """REINFORCE of a chosen size."""

    type: Literal["halved"] = "halved"
    size: float = Field(0.5, gt=0, description="What it is multiplied by.")


@LOSSES.register(Halved)
def halved(inputs: LossInputs, options: Halved) -> TokenTerms:
    everywhere = inputs.logprobs == inputs.logprobs
    return TokenTerms(loss=-options.size * inputs.advantages * inputs.logprobs, low=everywhere)
''',
    "order.py": '''
"""An advantage: +size above the mean of the group, -size below it."""

from typing import Literal

from pydantic import Field

from caprl_native.algorithm.inputs import AdvantageInputs
from caprl_native.algorithm.registries import ADVANTAGES
from caprl_native.registry import Options


class Order(Options):
    """On which side of its group's mean a reward is."""

    type: Literal["order"] = "order"
    size: float = Field(1.0, gt=0, description="Of every advantage.")


@ADVANTAGES.register(Order)
def order(inputs: AdvantageInputs, options: Order):
    return inputs.groups.finish(options.size * inputs.groups.centred.sign())
''',
    "own_vl.py": '''
"""A family: the modules of Qwen3-VL under another model_type, which transformers is told of."""

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from caprl_native.policy.families import FAMILIES
from caprl_native.policy.families.qwen import Qwen


class OwnConfig(Qwen3VLConfig):
    model_type = "own_vl"


class OwnModel(Qwen3VLForConditionalGeneration):
    config_class = OwnConfig


AutoConfig.register("own_vl", OwnConfig)
AutoModelForImageTextToText.register(OwnConfig, OwnModel)
FAMILIES.add("own_vl", Qwen("own_vl", FAMILIES["qwen3_vl"].value.parts))
''',
    "quiz.py": example("docs/data.md", "class Quiz("),
}
HELP = {
    "beyond.py": r"--reward\.terms\.beyond\.every  \(a whole number; default 7\)",
    "halved.py": r"--algorithm\.loss\.size  \(a finite number; default 0\.5\)",
    "order.py": r"--algorithm\.advantage\.size  \(a finite number; default 1\.0\)",
    "quiz.py": r"Record formats: .*\bquiz\b",
    "own_vl.py": r"Families, by model_type: .*\bown_vl\b",
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The files of all additions."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.lstrip())
    return [str(tmp_path / name) for name in FILES]


def help_of(module: str, *words: str) -> str:
    command = [sys.executable, "-m", module, "--help", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_help_lists_them(files: list[str]) -> None:
    plain, found = help_of("caprl_native.train"), help_of("caprl_native.train", "--plugins", *files)
    for name, line in HELP.items():
        assert re.search(line, found) and not re.search(line, plain), name


def test_a_run_of_two_steps_uses_them_all(
    files: list[str], tiny_policy: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_policy, tmp_path / "model")
    described = json.loads((model / "config.json").read_text()) | {"model_type": "own_vl"}
    (model / "config.json").write_text(json.dumps(described))
    photos = [write_noise(tmp_path / f"{i}.png", seed=i).name for i in range(3)]
    quiz = [["What colour?", "red", "blue"]]
    asked = [{"id": f"quiz {name}", "photo": name, "quiz": quiz} for name in photos[:2]]
    # No question, no need.
    others = [{"id": f"plain {name}", "image": name} for name in photos[2:]]
    others.append({"id": "plain video", "video": write_mp4(tmp_path / "v.mp4").name})
    write_rows(tmp_path / "train.jsonl", asked + others)
    config = tiny_config(tmp_path, model, "", tmp_path / "run")
    config.run.save_every, config.run.export, config.data.batch_size = 0, False, 4
    config.plugins = files
    stamps = {"type": "timestamps", "rule": "density", "weight": 0.01}
    config.reward.terms, config.reward.overlap = {"beyond": {"every": 5}, "stamps": stamps}, "on"
    config.log.backends, config.log.wandb = ["wandb", "tensorboard"], "offline"
    config.algorithm.loss = {"type": "halved", "size": 0.25}
    config.algorithm.advantage = {"type": "order", "size": 2.0}
    (tmp_path / "run.toml").write_text(dump(config))
    code, output = train(tmp_path / "run.toml", ranks=1)
    assert code == 0, output[-6000:]
    steps = rows(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        logged = rows(tmp_path / f"run/rollouts/step_{line['step']:06d}.jsonl")
        rewards = [r["rewards"]["beyond"] for r in logged]
        assert line["reward/beyond/mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert {r["advantage"] for r in logged} <= {-2.0, 0.0, 2.0} and len(rewards) == 16
        assert line["policy/clip_frac"] == pytest.approx(1.0)
        assert {r["id"] for r in logged} == {record["id"] for record in asked + others}
        assert 0 <= line["reward/stamps/mean"] <= 1, "of the video's captions"
    assert list((tmp_path / "run/tensorboard").glob("events*"))
    assert list((tmp_path / "run/wandb").glob("**/run-*.wandb"))


def test_a_benchmark_is_listed_and_evaluated(tmp_path: Path) -> None:
    plugin = tmp_path / "colours.py"
    plugin.write_text(example("docs/benchmarks.md", "class Colours("))
    assert "--benchmarks.colours.files" in help_of("eval.prism", "--plugins", str(plugin))
    assert "colours" not in help_of("eval.prism")
    code = example("CONTRIBUTING.md", "PrismConfig.grown()") + "\nprint(config.benchmarks.colours)"
    built = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.check_output(built, text=True, cwd=tmp_path, env=environment)
    assert said.startswith("files=['test.jsonl']")
    write_noise(tmp_path / "images/1.png")
    record = {"picture": "images/1.png", "question": "What colour is the cup?", "room": "kitchen"}
    record |= {"options": ["red", "blue"], "answer": "B"}
    write_rows(tmp_path / "test.jsonl", [record, record | {"answer": "A"}])
    words = ["--plugins", str(plugin), "--benchmark", "colours", "--out", str(tmp_path / "run")]
    words += ["--data-path", str(tmp_path / "test.jsonl"), "--run.progress=false"]
    with serve(lambda request: Reply("B")) as server:
        for table in ("captioner", "reader"):
            words += [f"--{table}.endpoint={server.url}", f"--{table}.model=x"]
        command = [sys.executable, "-m", "eval.prism", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["benchmarks"]["colours"]["mean"] == 50
