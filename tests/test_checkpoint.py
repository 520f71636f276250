"""Checkpoints: whole or not there, on any number of ranks, and exports that others load."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from caprl_native import checkpoint
from tests.ranks import run_ranks
from tests.samples import prompt


@pytest.fixture(scope="module")
def folder(tiny_policy, tmp_path_factory) -> Path:
    """Four steps saved by two ranks, keeping two; and an export of the fifth in bfloat16."""
    folder = tmp_path_factory.mktemp("checkpoints")
    reports = run_ranks("checkpoints", 2, "save", tiny_policy, folder)
    assert [r["steps"] for r in reports] == [[3, 4]] * 2
    return folder


def same(ours: Path, theirs: Path) -> bool:
    a, b = torch.load(ours), torch.load(theirs)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_two_ranks_load_and_go_on_bit_for_bit(folder, tiny_policy):
    reports = run_ranks("checkpoints", 2, "load", tiny_policy, folder)
    state = {"step": 4, "loader": {"epoch": 4, "order": [3, 1, 2]}}
    assert [r["state"] for r in reports] == [state] * 2
    assert same(folder / "loaded_2.pt", folder / "saved.pt")
    assert same(folder / "load_2_and_on.pt", folder / "save_2_and_on.pt")
    assert any(name.endswith(" exp_avg") for name in torch.load(folder / "saved.pt"))


@pytest.fixture(scope="module")
def one_rank(folder, tiny_policy):
    """What one rank found that loaded the checkpoint of two, exported it and started an engine."""
    return run_ranks("checkpoints", 1, "load", tiny_policy, folder, "engine")[0]


def test_another_number_of_ranks_loads_the_same(folder, one_rank):
    assert one_rank["state"]["step"] == 4
    assert same(folder / "loaded_1.pt", folder / "saved.pt")
    assert same(folder / "load_1_and_on.pt", folder / "save_2_and_on.pt")


def test_a_fresh_engine_on_the_export_gives_the_trainers_log_probs(one_rank):
    assert max(one_rank["gaps"]) < 1e-4


def test_transformers_loads_the_export_as_it_is(folder, one_rank):
    from transformers import AutoModelForImageTextToText

    saved = torch.load(folder / "saved.pt")
    model = AutoModelForImageTextToText.from_pretrained(folder / "export")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters())
    assert model.lm_head.weight is model.get_input_embeddings().weight
    tiny = torch.load(folder / "save_2_and_on.pt")
    half = AutoModelForImageTextToText.from_pretrained(folder / "export_2", dtype="auto")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p, tiny[name].bfloat16()) for name, p in half.named_parameters())


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_exports_processor_is_the_sources(folder, one_rank, tiny_policy, kind):
    ours, theirs = prompt(folder / "export", kind), prompt(tiny_policy, kind)
    assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.patches, theirs.patches)
    assert ours.engine["prompt"] == theirs.engine["prompt"]


# What a kill leaves behind.


def fake(root: Path, name: str, *files: str) -> None:
    (root / name / "shards").mkdir(parents=True)
    for file in ("shards/__0_0.distcp", *files):
        (root / name / file).write_text("{}")


def test_only_complete_checkpoints_count(tmp_path):
    fake(tmp_path, "step_00000010", "state.json")
    fake(tmp_path, "step_00000009", "state.json")
    fake(tmp_path, "step_00000011")  # no state
    fake(tmp_path, "step_00000012.tmp", "state.json")  # not renamed yet
    fake(tmp_path, "step_00000013.abandoned", "state.json")  # of another course
    assert checkpoint.steps(tmp_path) == [9, 10]
    assert checkpoint.find(tmp_path, "latest") == 10
    assert checkpoint.find(tmp_path, "9") == 9
    with pytest.raises(FileNotFoundError, match=r"'11'.*there are: \[9, 10\]"):
        checkpoint.find(tmp_path, "11")
    with pytest.raises(FileNotFoundError, match="there are: none"):
        checkpoint.find(tmp_path / "nowhere", "latest")


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def saver(layout):
    """Saves and loads a checkpoint of a model with nine weights, all equal to the step."""
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())

    def save(root: Path, step: int, keep: int = 1) -> None:
        with torch.no_grad():
            model.weight.fill_(step)
        checkpoint.save(root, step, model, optimizer, {}, keep)

    def load(root: Path) -> float:
        step = checkpoint.find(root, "latest")
        assert checkpoint.load(root, step, model, optimizer)["step"] == step
        return model.weight[0, 0].item()

    return save, load


def die_after(function: Callable) -> Callable:
    def die(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        raise Killed

    return die


def half_of_rmtree(path: Path, *_: Any, **__: Any) -> None:
    """Dies when the shards are gone and `state.json` is not."""
    if Path(path).exists():
        shards = list(Path(path).rglob("*.distcp"))
        for file in shards:
            file.unlink()
        raise Killed


rename = Path.rename


def die_after_rename(self: Path, target: Path) -> Path:
    """Dies when the new checkpoint has got its name."""
    renamed = rename(self, target)
    if self.name.startswith("step_"):
        raise Killed
    return renamed


PLACES = {
    "shards written": (checkpoint.dcp, "save", die_after(checkpoint.dcp.save)),
    "state written": (Path, "write_text", die_after(Path.write_text)),
    "some bytes flushed": (checkpoint, "_flush", die_after(checkpoint._flush_entry)),
    "renamed": (Path, "rename", die_after_rename),
    "half deleted": (shutil, "rmtree", half_of_rmtree),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_saving_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch, saver, place):
    save, load = saver
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place])
        with pytest.raises(Killed):
            save(tmp_path, 2)
    assert load(tmp_path) == (2.0 if place in ("renamed", "half deleted") else 1.0)
    save(tmp_path, 3)
    assert load(tmp_path) == 3.0
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000003"]


def test_later_checkpoints_are_set_aside_when_a_run_goes_on_from_an_earlier_one(tmp_path, saver):
    save, load = saver
    for step in (1, 2, 3):
        save(tmp_path, step, keep=0)
    checkpoint.abandon(tmp_path, after=1)
    assert load(tmp_path) == 1.0
    save(tmp_path, 2, keep=2)
    assert checkpoint.steps(tmp_path) == [1, 2] and load(tmp_path) == 2.0
    kept = {"step_00000001", "step_00000002", "step_00000002.abandoned", "step_00000003.abandoned"}
    assert {p.name for p in tmp_path.iterdir()} == kept
