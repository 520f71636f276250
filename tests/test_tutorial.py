"""The tutorial's commands, one after the other, as they stand there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.document_commands import ROOT, Command, commands
from tests.ranks import run_module

MADE = "outputs/tutorial"


def ranks_of(command: Command) -> int:
    words = command.words
    return int(words[words.index("--nproc-per-node") + 1]) if words[0] == "torchrun" else 1


def run(command: Command, folder: Path) -> str:
    """The output of a command whose folder of outputs is another."""
    words = [word.replace(MADE, str(folder)) for word in command.arguments]
    module = command.program.removesuffix(".py").replace("/", ".")
    code, said = run_module(module, ranks_of(command), *words, timeout=400)
    assert code == 0, f"{' '.join(command.words)}\n{said[-4000:]}"
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What all commands that need no GPU leave, run in the tutorial's order."""
    folder = tmp_path_factory.mktemp("tutorial") / "made"
    for command in commands(ROOT / "docs" / "tutorial.md"):
        if not command.needs and command.program not in ("make", "export"):
            run(command, folder)
    yield folder
    shutil.rmtree(folder)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_it_goes_from_media_to_a_model_card(made: Path) -> None:
    checked = lines(made / "checked" / "train.jsonl")
    assert len(checked) == 32 and all("blind_accuracy" in row for row in checked)
    metrics = lines(made / "run" / "metrics.jsonl")
    assert [m["step"] for m in metrics if "reward/total/mean" in m] == [1, 2]
    assert any("eval/reward/accuracy/mean" in m for m in metrics)
    assert len(lines(made / "captions.jsonl")) == 6
    assert (made / "prism" / "table.md").is_file()


def test_the_export_of_the_checkpoint_is_what_the_run_exported(made: Path) -> None:
    ours, theirs = made / "exported", made / "run" / "export"
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert {p.name for p in (made / "upload").iterdir()} >= {p.name for p in ours.iterdir()}
    card = (made / "upload" / "README.md").read_text()
    assert "after 2 steps" in card and "## Evaluation" in card and "curves.png" in card
    assert os.path.getsize(made / "upload" / "curves.png") > 1000
