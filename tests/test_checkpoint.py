"""Checkpoints: whole or not there, on any number of ranks, and exports that others load."""

import dataclasses
import hashlib
import io
import json
import pickle
import re
import resource
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from caprl_native import checkpoint
from caprl_native.checkpoint import CheckpointError
from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.errors import RunError
from caprl_native.policy.optim import build_optimizer
from caprl_native.testing.samples import prompt
from tests.ranks import run_ranks


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


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_each_checkpoint_has_an_export_that_may_outlive_it(folder):
    root = folder / "checkpoints"
    assert checkpoint.steps(root) == [3, 4]
    found = {d.name[-1]: sorted(f.name for f in d.iterdir()) for d in root.iterdir()}
    whole = ["hf", "manifest.json", "shards", "state.json"]
    assert found == {"2": ["hf"], "3": whole, "4": whole}
    with pytest.raises(FileNotFoundError, match=r"step_00000002 has no state.json.*\[3, 4\]"):
        checkpoint.find(root, "2")


def test_one_process_makes_the_same_export_of_a_checkpoint(folder, tiny_policy, tmp_path):
    config = f'[policy]\npath = "{tiny_policy}"\ndtype = "bfloat16"\n'
    (folder / "config.toml").write_text(config)
    for step in (3, 4):
        words = ["--checkpoint", folder, "--step", step, "--to", tmp_path / f"{step}"]
        assert export_tool(words) == 0
        theirs = checkpoint.directory(folder / "checkpoints", step) / "hf"
        assert files(tmp_path / f"{step}") == files(theirs)
    assert files(tmp_path / "3") != files(tmp_path / "4")
    with safe_open(tmp_path / "3/model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118  (it is no dict)
    again = ["--checkpoint", folder / "checkpoints", "--to", tmp_path / "4"]
    assert "exists: give --to a new directory" in export_tool(again)
    again[-1] = tmp_path / "new"
    assert "step_00000002 has no state.json" in export_tool([*again, "--step", 2])
    assert "no model directory: name the policy" in export_tool([*again, "--policy", tmp_path])
    assert not (tmp_path / "new").exists()


def test_an_export_of_what_is_not_there_names_the_option(tmp_path):
    words = ["--checkpoint", tmp_path / "typo", "--step", "3", "--to", tmp_path / "new"]
    assert f"--step = '3': no such checkpoint under {tmp_path}/typo" in export_tool(words)


def export_tool(words: list[object]) -> Any:
    """What tools/export.py exits with, run in this process; 0 at a good end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export.py", *map(str, words)])
        try:
            runpy.run_path(str(Path(__file__).parents[1] / "tools/export.py"), run_name="__main__")
        except SystemExit as end:
            return end.code
    return 0


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
    assert torch.equal(ours.ids, theirs.ids) and torch.equal(
        ours.media["patches"], theirs.media["patches"]
    )
    assert ours.engine["prompt"] == theirs.engine["prompt"]


# What a kill leaves behind.


def fake(root: Path, name: str, *files: str) -> None:
    (root / name / "shards").mkdir(parents=True)
    for file in ("shards/__0_0.distcp", *files):
        (root / name / file).write_text("{}")


def test_only_complete_checkpoints_count(tmp_path):
    whole = ("state.json", "manifest.json")
    fake(tmp_path, "step_00000010", *whole)
    fake(tmp_path, "step_00000009", *whole)
    fake(tmp_path, "step_00000011")  # no state
    fake(tmp_path, "step_00000012.tmp", *whole)  # not renamed yet
    fake(tmp_path, "step_00000013.abandoned", *whole)  # of another course
    fake(tmp_path, "step_00000014", "state.json")  # no manifest
    fake(tmp_path, "step_14_backup", *whole)
    fake(tmp_path, "step_14_1", *whole)
    assert checkpoint.steps(tmp_path) == [9, 10]
    assert checkpoint.find(tmp_path, "latest") == 10
    assert checkpoint.find(tmp_path, "9") == 9
    with pytest.raises(FileNotFoundError, match=r"'11'.*there are: \[9, 10\]"):
        checkpoint.find(tmp_path, "11")
    for asked, problem in {
        "14": "step_00000014 has no manifest.json: .*the next older one is usable: --resume 10",
        "14_backup": "step_14_backup has a name that no checkpoint has: .*--resume 10",
        "7": "no such checkpoint",
    }.items():
        with pytest.raises(FileNotFoundError, match=problem):
            checkpoint.find(tmp_path, asked)
    with pytest.raises(FileNotFoundError, match="there are: none"):
        checkpoint.find(tmp_path / "nowhere", "latest")


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def saver(dims):
    """Saves and loads a checkpoint of a model with nine weights, all equal to the step."""
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())

    def save(root: Path, step: int, keep: int = 1, value: float | None = None) -> None:
        with torch.no_grad():
            model.weight.fill_(step if value is None else value)
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
    "some bytes flushed": (checkpoint, "flush", die_after(checkpoint.flush_entry)),
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


def copy(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")


def test_a_kill_in_the_export_leaves_neither_it_nor_the_checkpoint(tmp_path, dims):
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())

    def save(step: int, export: Callable[[Path], None], **kept: int) -> None:
        checkpoint.save(tmp_path, step, model, optimizer, {}, export=export, **kept)

    def there() -> dict[int, bool]:
        """By step, whether an export is all that there is."""
        return {int(d.name[5:]): checkpoint.only_export(d) for d in sorted(tmp_path.iterdir())}

    save(1, copy, keep=1, keep_exports=2)
    with pytest.raises(Killed):
        save(2, die_after(copy), keep=1, keep_exports=2)
    assert checkpoint.find(tmp_path, "latest") == 1
    save(2, copy, keep=1, keep_exports=2)
    assert there() == {1: True, 2: False}
    save(3, copy, keep=1, keep_exports=2)
    assert there() == {2: True, 3: False}
    shutil.rmtree(checkpoint.directory(tmp_path, 3) / "hf")  # nobody needs it to go on
    assert checkpoint.load(tmp_path, 3, model, optimizer)["step"] == 3
    save(4, copy, keep=2, keep_exports=0)
    assert there() == {2: True, 3: False, 4: False}
    save(5, copy, keep=1)  # as many exports as checkpoints
    assert there() == {5: False}


def test_later_checkpoints_are_set_aside_when_a_run_goes_on_from_an_earlier_one(tmp_path, saver):
    save, load = saver
    for step in (1, 2, 3):
        save(tmp_path, step, keep=0)
    checkpoint.archive_newer(tmp_path, after=1)
    assert load(tmp_path) == 1.0
    save(tmp_path, 2, keep=2)
    assert checkpoint.steps(tmp_path) == [1, 2] and load(tmp_path) == 2.0
    kept = {"step_00000001", "step_00000002", "step_00000002.abandoned", "step_00000003.abandoned"}
    assert {p.name for p in tmp_path.iterdir()} == kept
    checkpoint.archive_newer(tmp_path, after=0)  # once more: what is aside stays
    kept = kept - {"step_00000001", "step_00000002"}
    kept |= {"step_00000001.abandoned", "step_00000002.abandoned.2"}
    assert {p.name for p in tmp_path.iterdir()} == kept


# What others than the run itself do to a checkpoint.


def flip(folder: Path) -> None:
    """64 bytes in the middle of the weights, so that the file still opens."""
    (file,) = folder.glob("shards/*.distcp")
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(b ^ 0xFF for b in data[middle : middle + 64])
    file.write_bytes(data)


def cut(folder: Path) -> None:
    (file,) = folder.glob("shards/*.distcp")
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES = {
    "flipped bytes": (flip, "shards/__0_0.distcp is not what was saved"),
    "truncated": (cut, "shards/__0_0.distcp is not what was saved"),
    "a file is gone": (
        lambda folder: (folder / "shards/__0_0.distcp").unlink(),
        "shards/__0_0.distcp cannot be read .No such file",
    ),
    "metadata": (
        lambda folder: (folder / "shards/.metadata").write_bytes(b"cposix\nsystem\n."),
        "shards/.metadata is not what was saved",
    ),
    "state": (lambda folder: (folder / "state.json").write_text("[1, 2"), "state.json cannot be"),
    "manifest": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json or"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_and_the_next_older_checkpoint_is_named(tmp_path, saver, damage):
    save, load = saver
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=0)
    spoil, said = DAMAGES[damage]
    flip(checkpoint.directory(tmp_path, 3))
    spoil(checkpoint.directory(tmp_path, 4))
    with pytest.raises(CheckpointError, match=f"step_00000004 is damaged: .*{said}.*: --resume 2$"):
        load(tmp_path)
    assert checkpoint.steps(tmp_path) == [1, 2, 3, 4]  # nothing is touched


def test_a_copied_checkpoint_is_not_one_of_another_step(tmp_path, saver):
    save, load = saver
    save(tmp_path, 1)
    shutil.copytree(checkpoint.directory(tmp_path, 1), checkpoint.directory(tmp_path, 7))
    with pytest.raises(CheckpointError, match="step_00000007 .* copy of step 1.*--resume 1"):
        load(tmp_path)


class Harm:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def forge(folder: Path) -> None:
    """Checksums that fit what is there now: whoever can write a checkpoint can write these."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_checkpoint_of_another_python_is_loaded(tmp_path, saver):
    """CPython 3.13 writes pathlib's classes under a name that no other has."""
    save, load = saver
    save(tmp_path / "root", 1)
    folder = checkpoint.directory(tmp_path / "root", 1)
    file = folder / "shards/.metadata"
    data = pickle.dumps(pickle.loads(file.read_bytes()), protocol=2)
    elsewhere = re.sub(rb"cpathlib(\._local)?\n", b"cpathlib._local\n", data)
    assert b"pathlib._local" in elsewhere
    file.write_bytes(elsewhere)
    forge(folder)
    load(tmp_path / "root")


def test_a_checkpoint_runs_no_code(tmp_path, saver):
    save, load = saver
    save(tmp_path / "root", 1)
    folder, made = checkpoint.directory(tmp_path / "root", 1), tmp_path / "made"
    file = folder / "shards/.metadata"
    metadata = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(dataclasses.replace(metadata, planner_data=Harm(made))))
    forge(folder)
    with pytest.raises(CheckpointError, match=r"\.metadata is not loaded: it wants"):
        load(tmp_path / "root")
    harmful = io.BytesIO()  # in place of the optimizer's betas, which are pickled in a shard
    torch.save(Harm(made), harmful)
    shard = folder / "shards/__0_0.distcp"
    (index,) = [i for i in metadata.storage_data if i.fqn == "optim.param_groups.0.betas"]
    metadata.storage_data[index] = dataclasses.replace(
        metadata.storage_data[index], offset=shard.stat().st_size, length=harmful.tell()
    )
    shard.write_bytes(shard.read_bytes() + harmful.getvalue())
    file.write_bytes(pickle.dumps(metadata))
    forge(folder)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(tmp_path / "root")
    assert not made.exists()
    pickle.loads(pickle.dumps(Harm(made)))
    assert made.exists()  # it would have


def test_weights_that_are_not_finite_are_refused(tmp_path, saver):
    save, load = saver
    save(tmp_path, 1)
    save(tmp_path, 2, keep=0, value=float("nan"))
    with pytest.raises(CheckpointError, match="1 of its weights are not finite, e.g. weight"):
        load(tmp_path)


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(tmp_path, saver):
    save, load = saver
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # no file may be larger
    try:
        with pytest.raises(RunError, match="step_00000002 cannot be written: .+") as error:
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]  # the rest's space is free
    assert load(tmp_path) == 1.0


def test_what_a_resumed_run_takes_from_its_config_and_what_from_the_checkpoint(tmp_path, dims):
    def parts(width: int, decay: float, frozen: bool = False):
        model = torch.nn.Linear(width, width)
        model.bias.requires_grad_(not frozen)
        config = PolicyConfig(lr=1e-3, weight_decay=decay, betas=[decay, 0.9], eps=decay)
        return model, build_optimizer(model, config)

    model, optimizer = parts(3, 0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, 1, model, optimizer, {}, keep=0)
    other, its = parts(3, 0.5)
    checkpoint.load(tmp_path, 1, other, its)
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(its.state[other.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])
    assert [g["weight_decay"] for g in its.param_groups] == [0.5, 0.0]
    assert {(g["betas"], g["eps"]) for g in its.param_groups} == {((0.5, 0.9), 0.5)}
    with pytest.raises(CheckpointError, match=r"another model: bias is \(3,\) in it and \(4,\)"):
        checkpoint.load(tmp_path, 1, *parts(4, 0.1))
    with pytest.raises(CheckpointError, match=r"other parts frozen, e.g. bias.*policy.freeze"):
        checkpoint.load(tmp_path, 1, *parts(3, 0.1, frozen=True))
