"""A run's folder: one process at a time, nothing of an earlier run lost, what changed is said."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from caprl_native import run_folder
from caprl_native.config.cli import ConfigError, dump, load, parse_cli
from caprl_native.config.schema import Config, LogConfig, RunConfig, SftConfig
from caprl_native.distributed.errors import RunError
from caprl_native.dry_run import check_machine, check_sft_machine
from caprl_native.observe.log import RunLog
from caprl_native.run_folder import RunFolder

WHOLE = ("state.json", "manifest.json")


def run_in(folder: Path, **settings) -> RunFolder:
    return RunFolder(RunConfig(dir=str(folder), **settings), main=True)


def finish(folder: Path, step: int = 4) -> None:
    """What a run leaves behind."""
    saved = folder / f"checkpoints/step_{step:08d}"
    saved.mkdir(parents=True)
    for name in WHOLE:
        (saved / name).write_text("{}")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "export").mkdir()


def test_a_folder_is_locked_until_its_process_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_PATIENCE_S", 0.5)
    folder = tmp_path / "a run, für Ärger ✓"
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        held = run_in(folder)
        os.write(writing, b"x")
        signal.pause()
        held.close()
    os.read(reading, 1)
    began = time.monotonic()
    with pytest.raises(RunError, match=f"für Ärger ✓ is in use by process {pid} on "):
        run_in(folder)
    assert time.monotonic() - began < 10
    RunFolder(RunConfig(dir=str(folder)), main=False)  # other ranks leave the lock to the first
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    run_in(folder).close()
    run_in(folder).close()


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints", "export"])
def test_a_fresh_run_does_not_start_over_an_earlier_one(tmp_path, left):
    finish(tmp_path / "all")
    (tmp_path / "run").mkdir()
    (tmp_path / "all" / left).rename(tmp_path / "run" / left)
    with pytest.raises(RunError, match="holds a run .*--resume.*--run.overwrite=true.*--run.dir"):
        run_in(tmp_path / "run")
    assert (tmp_path / "run" / left).exists()


def test_overwriting_twice_keeps_both_earlier_runs(tmp_path):
    for step in (4, 5):
        finish(tmp_path, step)
        run_in(tmp_path, overwrite=True).close()
    names = {"metrics.jsonl.abandoned", "export.abandoned"}
    names |= {f"{name}.2" for name in names}
    # Checkpoints are put aside when the run begins, see test_checkpoint.py.
    assert {p.name for p in tmp_path.iterdir()} == names | {"checkpoints", ".lock"}


def test_resuming_says_what_changed_and_keeps_the_old_config(tmp_path, caplog):
    finish(tmp_path)
    old, new = Config(), Config()
    new.policy.lr, new.rollout.n, new.run.resume = 1e-5, 4, "latest"
    new.reward.terms["accuracy"].weight = 0.5
    new.algorithm.loss = {"type": "gspo"}
    new.reward.terms = new.reward.terms | {"length": {"weight": 0.2}}
    (tmp_path / "config.toml").write_text(dump(old))
    place = run_in(tmp_path, resume="latest")
    assert place.step == 4
    with caplog.at_level(logging.WARNING):
        place.write_config(dump(new))
    (said,) = caplog.messages
    for part in (
        "policy.lr: 1e-06 -> 1e-05",
        "rollout.n: 8 -> 4",
        "reward.terms.accuracy.weight: 1.0 -> 0.5",
        "reward.terms.length.weight: 'not set' -> 0.2",
        "algorithm.loss.type: 'ppo' -> 'gspo'",
    ):
        assert part in said
    assert "run.resume" not in said and "config.step_000004.toml" in said
    assert load(Config, [tmp_path / "config.step_000004.toml"]) == old
    assert load(Config, [tmp_path / "config.toml"]) == new
    place.write_config(dump(new))
    assert len(caplog.messages) == 1  # nothing changed
    place.close()


# --- before models load -----------------------------------------------------------------------


def spoilt(tmp_path: Path, key: str) -> tuple[Config, str]:
    config = Config()
    config.run.dir, config.log.wandb = str(tmp_path / "run"), "disabled"
    if key == "run.dir":
        (tmp_path / "file").write_text("")
        config.run.dir = str(tmp_path / "file/run")
        return config, "run.dir: expected a folder to write into .*: (Not a directory|File exists)"
    config.log.wandb = "online"
    return config, 'log.wandb: expected "offline" or "disabled" where neither WANDB_API_KEY'


@pytest.mark.parametrize("key", ["run.dir", "log.wandb"])
def test_what_cannot_be_written_ends_a_run_before_models_load(tmp_path, monkeypatch, key):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    config, said = spoilt(tmp_path, key)
    with pytest.raises(ConfigError, match=said):
        check_machine(config)
    with pytest.raises(ConfigError, match=said):
        check_sft_machine(SftConfig(run=config.run, log=config.log))
    if key == "log.wandb":
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
        with pytest.raises(ConfigError, match="policy.path"):  # the next thing that is missing
            check_machine(config)


def test_home_and_patterns_mean_the_same_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my data").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"my data/{name}.jsonl").write_text("{}\n" * 3)
    argv = ["--data.files", "['~/my data/*.jsonl']", "--run.dir=~/out", "--policy.path=~/model"]
    given = [*argv, "--data.media_root=~", "--data.batch_size=2", "--eval.every=0"]
    given += ["--reward.reader.path=~/reader", "--dry-run"]
    args = parse_cli(Config, given, "train", needs_file=False)
    assert args.config.run.dir == str(tmp_path / "out")
    assert args.config.policy.path == str(tmp_path / "model")
    assert args.config.data.media_root == str(tmp_path)
    from caprl_native.dry_run import plan

    text = plan(args.config, 1)
    assert text.count("3 records") == 2 and "3 per epoch" in text


# --- Weights & Biases -------------------------------------------------------------------------


def test_a_resumed_run_goes_on_under_its_id_at_weights_and_biases(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = Config()
    for _ in range(2):
        log = RunLog(tmp_path, LogConfig(), main=True, name="a run", resolved=dump(config))
        log.metrics(1, {"reward": 1.0})
        log.close()
        time.sleep(1)  # the folder's name has the second in it
    kept = (tmp_path / "wandb_id").read_text()
    found = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(found) == 2 and all(f.name.endswith(kept) for f in found)
    for folder in found:
        data = b"".join(f.read_bytes() for f in folder.rglob("*.wandb"))
        assert b"max_prompt_tokens" in data  # the config is there
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1


def exit_codes(file: Path) -> list[int]:
    """What a file of Weights & Biases says of a run's end. It is in LevelDB's log format: blocks of
    32 KiB, in which a record is one piece (kind 1), or several of which the last has kind 4."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record, codes = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (room := 2**15 - at % 2**15) < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            read, record = Record.FromString(record), b""
            codes += [read.exit.exit_code] if read.HasField("exit") else []
    return codes


@pytest.mark.parametrize("failed", [False, True])
def test_weights_and_biases_shows_whether_a_run_has_failed(tmp_path, monkeypatch, failed):
    monkeypatch.setenv("WANDB_SILENT", "true")
    log = RunLog(tmp_path, LogConfig(), main=True, name="a run", resolved="")
    log.metrics(1, {"reward": 1.0})
    log.close(failed=failed)
    (file,) = tmp_path.rglob("*.wandb")
    until = time.monotonic() + 20  # its own process writes, and may be behind
    while not (codes := exit_codes(file)) and time.monotonic() < until:
        time.sleep(0.1)
    assert codes == [int(failed)]
    log.close()  # as the run's end does, after what failed


def test_metrics_go_to_tensorboard_too_and_go_on_there_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    config = LogConfig(backends=["tensorboard"])
    for step in (1, 2):
        log = RunLog(tmp_path, config, main=True, name="a run", resolved=dump(Config()))
        log.metrics(step, {"reward/total/mean": step / 4, "data/skipped": 3})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = events.Tensors("reward/total/mean")
    assert [(e.step, make_ndarray(e.tensor_proto)) for e in found] == [(1, 0.25), (2, 0.5)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "wandb_id").exists()


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="tensorboard"):
        LogConfig(backends=["mlflow"])
