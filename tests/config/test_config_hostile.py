"""Config files and command lines that no one writes on purpose: one sentence and exit code 2."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import ValidationError

from caprl_native.config.cli import load, load_with_origins, parse_cli
from caprl_native.config.schema import Config, RolloutConfig
from caprl_native.dry_run import check_world, plan
from caprl_native.trainer import named_cuts
from eval.config import PrismConfig
from eval.plan import load_benchmarks
from tests.config.conftest import MINIMAL


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command line that ends with 2, within two seconds."""
    began = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        parse_cli(Config, argv, "caprl_native.train")
    assert time.monotonic() - began < 2
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ") and message.count("\n") == 1 and len(message) < 1000
    assert message[:-1].isprintable()
    return message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[data]\nfiles = " + "[" * 50_000 + "]" * 50_000, "nested too deeply"),
        ("x = " + "{a=" * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        ("[" + ".".join("a" * 20_000) + "]\nb = 1", "nested too deeply"),
        ("[policy]\nlr." + ".".join("a" * 20_000) + " = 1", "nested too deeply"),
        ("[policy]\nlr = " + "9" * 5000, "a number has thousands of digits"),
        ("[policy]\nlr = " + "9" * 400, "policy.lr: expected a finite number"),
        ("[policy]\nlr = 1e999", "policy.lr: expected a finite number, found inf"),
        ("[run]\nseed = 9223372036854775808", "run.seed: expected a whole number"),
        ('[run]\nname = "a\\u0000b"', "run.name: expected a text in quotes, found 'a\\x00b'"),
        ("[run]\nepochs = '" + "x" * 100_000 + "'", "run.epochs: expected a whole number"),
        ("[policy]\nfreeze = [" + "7, " * 100_000 + "]", "policy.freeze: expected a list of texts"),
        ("[policy]\n" + "k" * 100_000 + " = 1", "unknown key"),
        ('[policy]\n"a\\nb" = 1', "policy.a\\nb: unknown key"),
        ("[policy]\npath = '" + "x" * 300 + "'", "policy.path: expected a path of at most 4,000"),
        ("[data]\nfiles = ['" + "x/" * 3000 + "']", "data.files: expected a path of at most 4,000"),
        ("# " + "x" * 2**20, "is no config file: it has 1,048,578 bytes"),
        ("\n" * 900_000 + "x = 1", "a.toml:900001: x: unknown key"),
        (b"[run]\nname = '\xff'", "cannot be read as UTF-8 text"),
        (b"\xff\xfe[\0r\0u\0n\0]\0", "cannot be read as UTF-8 text"),
        ("[run]\nname = 'a'\x00", "not valid TOML"),
    ],
    ids=range(20),
)
def test_hostile_files(text, problem, write, capsys):
    assert problem in error_of(["--config", write(text)], capsys)


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (["--policy.lr=" + "9" * 5000], "policy.lr: expected a finite number, found '999"),
        (["--rollout.n", "9" * 30], "rollout.n: expected a whole number"),
        (["--data.files", "[" * 50_000], "data.files: expected a list of texts"),
        (["--" + "x" * 50_000, "1"], "unknown key"),
        (["--rollout.n=8", "x" * 50_000], "expected --table.key value"),
        (["--run.name", "\udcff"], "run.name: expected a text"),
        (["--run.name", "x" * 300], "run.name: expected a name that can be a folder's"),
        (["--run.name=.."], "run.name: expected a name that can be a folder's"),
        (["--run.dir", "x" * 300], "run.dir: expected a path of at most"),
        (["--algorithm.kl.reference", "x/" * 3000], "algorithm.kl.reference: expected a path"),
        (["--rollout.top_k=5"], "rollout.top_k: expected 0, or algorithm.corrections.tis.type = "),
        (["--rollout.top_p=0.8"], "rollout.top_p: expected 1.0, or algorithm.corrections.tis.type"),
    ],
    ids=range(12),
)
def test_hostile_command_lines(tokens, problem, write, capsys):
    message = error_of(["--config", write(MINIMAL), *tokens], capsys)
    assert problem in message and "command line" in message


def test_config_files_that_are_none(write, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "x" * 5000, "x" * 5000 + "/y", "~/" + "y" * 5000):
        assert "expected a config file at" in error_of(["--config", name], capsys)


def test_a_cut_distribution_may_be_sampled_from_without_the_correction(write):
    for cut in ("--rollout.top_k=5", "--rollout.top_p=0.8"):
        argv = ["--config", write(MINIMAL), cut, "--algorithm.corrections.tis.type=none"]
        found = parse_cli(Config, argv, "x").config.algorithm.corrections
        assert found["tis"].type == "none"


def test_the_mismatch_warning_names_what_cuts_the_distribution():
    assert named_cuts(RolloutConfig()) == ""
    told = named_cuts(RolloutConfig(top_k=5, top_p=0.8))
    assert told.startswith("; rollout.top_k = 5 and rollout.top_p = 0.8 cut off")


def test_home_means_the_same_in_every_path(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ["data.media_root", "policy.path", "reward.reader.path", "algorithm.kl.reference"]
    overrides = [f"--{key}=~/x y" for key in [*keys, "run.dir"]]
    overrides += ["--data.files", '["~/*.jsonl", "~"]', "--data.eval_files", '["~/e.jsonl"]']
    config, _ = load_with_origins(Config, [write('[run]\nname = "~"\n')], overrides)
    for key in [*keys, "run.dir"]:
        table, _, name = key.rpartition(".")
        found = config
        for part in table.split("."):
            found = getattr(found, part)
        assert getattr(found, name) == f"{tmp_path}/x y", key
    assert config.data.files == [f"{tmp_path}/*.jsonl", str(tmp_path)]
    assert config.data.eval_files == [f"{tmp_path}/e.jsonl"] and config.run.name == "~"


def test_home_means_the_same_in_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ["run.dir", "captioner.path", "reader.path", "judge.path", "benchmarks.qa.media_root"]
    overrides = [f"--{key}=~/x" for key in [*keys, "benchmarks.videomme.subtitles"]]
    overrides += ["--benchmarks.qa.files", '["~/*.jsonl"]', "--report.compare", '["~/old"]']
    config = load(PrismConfig, [], overrides)
    assert {config.run.dir, config.captioner.path, config.reader.path, config.judge.path} == {
        config.benchmarks.qa.media_root
    }
    assert config.benchmarks.videomme.subtitles == config.run.dir == f"{tmp_path}/x"
    assert config.report.compare == [f"{tmp_path}/old"]
    question = {"question": "Which?", "choices": ["Red", "Blue"], "answer": "A"}
    for name in "ab":
        record = {"id": name, "image": "i.png", "questions": [question]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record))
    (loaded,) = load_benchmarks(config)
    assert [item.id for item in loaded.items] == ["a#0", "b#0"]


def test_the_plan_counts_what_patterns_match(write, tmp_path):
    config = load(Config, [write(MINIMAL)], ["--data.batch_size=2"])
    config.algorithm.updates = 1
    (tmp_path / "a.jsonl").write_text("{}\n{}\n")
    (tmp_path / "b.json").write_text('[{"a": "]"},\n {}, {}]')
    config.data.files = [str(tmp_path / "[ab].json*")]
    text = plan(config, 1)
    assert "a.jsonl: 2 records" in text and "b.json: 3 records" in text
    assert "6: 2 per epoch x 3" in text
    config.data.files = [str(tmp_path / "c*.jsonl")]
    assert "c*.jsonl: not found here" in plan(config, 1)
    with pytest.raises(ValidationError, match="a path of at most 4,000 bytes"):
        config.data.files = ["x" * 5000]
    config.data.files = ["x" * 255, str(tmp_path)]
    assert plan(config, 1).count("not found here") >= 2
    check_world(config, 1)
