"""What the programs answer at once: --help and --dry-run, without torch, vLLM or transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "vllm", "transformers", "ray")
CODE = """
import sys
from {module} import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print("heavy:", [name for name in {heavy} if name in sys.modules])
"""
SFT = ["--config", "demo_policy_sft.toml", "--dry-run", "--policy.path=demo_models/reader"]
TRAIN = ["--config", "demo.toml", "--dry-run"]
PLUGIN = """\
from typing import Literal
from pydantic import Field
from caprl_native.rewards.base import TERMS, RewardTerm, TermOptions, finished

class VowelsOptions(TermOptions):
    \"\"\"Share of vowels.\"\"\"
    type: Literal["vowels"] = "vowels"
    letters: str = Field("aeiou", description="What counts as one.")

@TERMS.register(VowelsOptions)
class Vowels(RewardTerm[VowelsOptions]):
    def submit(self, caption):
        return finished(sum(c in self.options.letters for c in caption.text))
"""


def answer(module: str, *words: str, folder: Path = ROOT) -> str:
    """What the program prints, and which of the heavy modules it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(module=module, heavy=HEAVY), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("module", "words", "part"),
    [
        ("caprl_native.train", ["--help"], "--algorithm.loss.clip_low  ("),
        ("caprl_native.sft", ["--help"], "--data.loss_on  ("),
        ("eval.prism", ["--help"], "--benchmarks.qa.files  ("),
        ("caprl_native.train", TRAIN, "demo_models/policy: "),
        ("caprl_native.train", [*TRAIN, "--ranks", "16", "--gpu-memory=80"], "GPUs of 80 GiB"),
        ("caprl_native.sft", ["--config", "demo_policy_sft.toml", "--dry-run"], 'loss_on = "r'),
        ("caprl_native.sft", [*SFT, "--ranks=2", "--gpu-memory=80"], "GPUs of 80 GiB"),
        ("eval.prism", ["--config", "prism_demo.toml", "--dry-run"], "[benchmarks.qa]"),
    ],
)
def test_no_heavy_import_before_the_answer(module, words, part):
    said = answer(module, *words)
    assert part in said
    assert said.endswith("heavy: []\n")


def test_a_plugins_term_is_in_the_help_and_in_the_plan(tmp_path):
    (tmp_path / "vowels_of_a_plugin.py").write_text(PLUGIN)
    for words in (["--plugins", "vowels_of_a_plugin.py"], ["--config", "mine.toml"]):
        (tmp_path / "mine.toml").write_text(
            'plugins = ["vowels_of_a_plugin.py"]\n[reward.terms.vowels]\nletters = "ae"\n'
        )
        said = answer("caprl_native.train", "--help", *words, folder=tmp_path)
        assert '--reward.terms.vowels.letters  (a text; default "aeiou")' in said
        assert said.endswith("heavy: []\n")
    said = answer("caprl_native.train", "--config", "image.toml", "mine.toml", "--dry-run",
                  folder=tmp_path)  # fmt: skip
    assert 'letters = "ae"  # mine.toml:3' in said


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--ranks", "8"], "--ranks: is for --dry-run"),
        (["--dry-run", "--ranks", "0"], "--ranks: expected a whole number, 1 or more, found '0'"),
        (["--dry-run", "--gpu-memory", "much"], "--gpu-memory: expected GiB of each GPU"),
        (["--dry-run", "--ranks=3"], "data.batch_size: expected a multiple of 3"),
    ],
)
def test_a_machine_that_cannot_be_planned_for(words, part, capsys, monkeypatch):
    from caprl_native.train import main

    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main(["--config", "demo.toml", *words])
    assert stop.value.code == 2 and part in capsys.readouterr().err
