"""Config files, overrides and their errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from caprl_native.config.cli import (
    ConfigError,
    check,
    check_sft,
    dump,
    help_text,
    load,
    load_with_origins,
    parse_cli,
)
from caprl_native.config.schema import Config, SftConfig
from caprl_native.config.toml import key_lines
from caprl_native.config.tree import leaves
from tests.config.conftest import MINIMAL

# Those of the evaluation and the curation are tested beside it; s2d.toml and pretrain.toml name
# others.
FOLDER = Path(__file__).parents[2] / "train_configs"
OTHERS = ("caption.toml", "curate", "prism", "s2d.toml", "pretrain.toml")
RECIPES = sorted(f for f in FOLDER.glob("*.toml") if not f.name.startswith(OTHERS))
OVERLAYS = {"one_80gb_2b.toml", "four_80gb_4b.toml", "paper.toml", "lora.toml"}
BASES = {"published.toml"}


def schema_of(file: Path) -> type:
    return SftConfig if file.stem.endswith("_sft") or "pretrain" in file.stem else Config


# --- loading ----------------------------------------------------------------------------------


def test_later_files_win_and_the_command_line_wins_over_all(write):
    first = write('[policy]\nlr = 1e-5\npath = "m"\nbetas = [0.5, 0.6]\n')
    second = write("[policy]\nlr = 2e-5\nbetas = [0.7, 0.8]\n[rollout]\nn = 4\n", "b.toml")
    config, origins = load_with_origins(Config, [first, second], ["--rollout.n", "16"])
    assert (config.policy.path, config.policy.lr, config.rollout.n) == ("m", 2e-5, 16)
    assert config.policy.betas == [0.7, 0.8]
    assert origins["policy.path"] == "a.toml:3"
    assert origins["policy.lr"] == "b.toml:2"
    assert origins["rollout.n"] == "command line"
    assert origins.of("run.seed") == "default"


def test_overrides_take_toml_and_bare_texts():
    config = load(
        Config,
        [],
        ["--policy.lr=1e-6", "--policy.path", "a b=c", "--rollout.refill", "true", "--eval.every=0"]
        + ["--policy.freeze", '["vision", "projector"]', "--run.resume", "50", "--policy.eps", "1"]
        + ["--log.rollouts", "-1", "--algorithm.loss.type", "gspo", "--run.name", '"quoted"'],
    )
    assert (config.policy.lr, config.policy.path, config.rollout.refill) == (1e-6, "a b=c", True)
    assert config.policy.freeze == ["vision", "projector"]
    assert (config.run.resume, config.policy.eps, config.log.rollouts) == ("50", 1.0, -1)
    assert isinstance(config.policy.eps, float)
    assert (config.algorithm.loss.type, config.run.name) == ("gspo", "quoted")


def test_defaults_are_not_shared():
    load(Config, []).policy.betas.append(1.0)
    assert load(Config, []).policy.betas == Config().policy.betas


def test_bare_names_are_looked_up_beside_you_first(write):
    assert load(Config, ["image.toml"]).run.name == "image"
    write('[run]\nname = "mine"\n', "image.toml")
    assert load(Config, ["image.toml"]).run.name == "mine"


def test_a_missing_file_names_both_places(write, tmp_path):
    write("")
    with pytest.raises(ConfigError) as error:
        load(Config, ["vidoe.toml"])
    assert str(tmp_path / "vidoe.toml") in str(error.value)
    assert str(RECIPES[0].parent / "vidoe.toml") in str(error.value)


@pytest.mark.parametrize("schema", [Config, SftConfig])
def test_dump_loads_as_an_equal_config(schema, write):
    config = load(
        schema,
        [],
        [
            "--policy.lr=1e-06",
            "--policy.betas",
            "[0.9, 1e-300]",
            "--log.rollouts",
            "-1",
            "--policy.eps=1e22",
        ]
        + ["--run.name", 'tab\t "q" \\ ü 🙂 \x7f \n end', "--data.files", '[" ", "a#b.jsonl"]'],
    )
    assert load(schema, [write(dump(config))]) == config


def test_dump_with_origins_is_still_toml(write):
    config, origins = load_with_origins(Config, [write(MINIMAL)], ["--policy.lr=1e-6"])
    text = dump(config, origins)
    assert "lr = 1e-06  # command line" in text
    assert 'path = "reader"  # a.toml:6' in text
    assert load(Config, [write(text, "b.toml")]) == config


@pytest.mark.parametrize("file", [f for f in RECIPES if f.name not in BASES], ids=lambda f: f.name)
def test_every_recipe_loads_and_makes_sense(file):
    schema = schema_of(file)
    under = ["video.toml"] if file.name in OVERLAYS else []
    config, origins = load_with_origins(schema, [*under, file])
    (check if schema is Config else check_sft)(config, origins)


def test_the_demo_rewards_accuracy_alone():
    demo = load(Config, ["demo.toml"]).reward.terms
    assert list(demo) == ["accuracy"] and demo["accuracy"].weight == 1.0


def test_key_lines_see_through_values():
    text = (
        '# [a]\n[run] # x\nname = """\nseed = 1\n[data]\n"""\nseed = 2\n\n[data]\nfiles = [ # "]"\n'
    )
    text += '  "seed = 3",\n]\n"batch_size" = 4\nreader.path = \'#\'\n'
    assert key_lines(text) == {
        "run": 2,
        "run.name": 3,
        "run.seed": 7,
        "data": 9,
        "data.files": 10,
        "data.batch_size": 13,
        "data.reader.path": 14,
    }


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "[policy]\n\nlerning_rate = 1\n",
            ["a.toml:3", "policy.lerning_rate", "unknown", "policy."],
        ),
        ("[policy]\nlearning_rate = 1\n", ["a.toml:2", '"policy.lr"']),
        ("[policy]\nbatch_size = 1\n", ["a.toml:2", '"data.batch_size"']),
        ("[polcy]\nlr = 1\n", ["a.toml:1", "polcy.lr", '"policy.lr"']),
        ("rollout = 3\n", ["a.toml:1", "rollout", "a table"]),
        ("[[run]]\nseed = 1\n", ["a.toml:1", "run", "a table"]),
        ("[policy]\nlr = 'big'\n", ["a.toml:2: policy.lr", "a finite number", "'big'"]),
        ("[policy]\nlr = nan\n", ["a.toml:2: policy.lr", "a finite number"]),
        ("[policy]\nlr = true\n", ["a.toml:2: policy.lr", "a finite number", "true"]),
        ("[rollout]\nn = true\n", ["a.toml:2: rollout.n", "a whole number", "true"]),
        ("[rollout]\nn = 8.0\n", ["a.toml:2: rollout.n", "a whole number", "8.0"]),
        ("[rollout]\nsleep = 1\n", ["a.toml:2: rollout.sleep", "true or false", "1"]),
        ("[run]\nname = 5\n", ["a.toml:2: run.name", "a text in quotes", "5"]),
        ("[data]\nfiles = 'a'\n", ["a.toml:2: data.files", "a list of texts"]),
        ("[data]\nfiles = ['a', 1]\n", ["a.toml:2: data.files", "a list of texts"]),
        ("[policy]\nbetas = [0.9, '1']\n", ["a.toml:2: policy.betas", "a list of numbers"]),
        ("[log]\nwandb = 'on'\n", ["a.toml:2: log.wandb", '"offline"', '"online"', "'on'"]),
        ("[run]\nreward = {x = 1}\n", ["a.toml:2", "run.reward.x"]),
        ("reward = {reader = {\n pth = 1}}\n", ["a.toml:1", "reward.reader.pth", "reader.path"]),
        ("[run]\nseed = \n", ["a.toml:2", "not valid TOML"]),
        ("[run]\nseed = 1\nseed = 2\n", ["a.toml:3", "not valid TOML"]),
        ("[run]\nname = 'x\n", ["a.toml:2", "not valid TOML"]),
        ('[run]\nname = """x\n', ["a.toml:2", "not valid TOML"]),
    ],
)
def test_what_a_file_can_get_wrong(text, parts, write, capsys):
    assert_error(["--config", write(text)], parts, capsys)


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        (["--policy.learning-rate", "1"], ["policy.learning-rate", "unknown", "policy.lr"]),
        (["--policy.lr", "fast"], ["policy.lr", "a finite number", "'fast'"]),
        (["--policy.lr"], ["policy.lr", "found no value"]),
        (["--policy.lr", "--rollout.n", "8"], ["policy.lr", "found no value"]),
        (["--policy.freeze", "vision"], ["policy.freeze", "a list of texts"]),
        (["--rollout.n", "1.5"], ["rollout.n", "a whole number", "'1.5'"]),
        (["--algorithm.loss.type", "ppoo"], ["algorithm.loss.type", '"gspo"', '"ppo"', "'ppoo'"]),
        (["--dryrun"], ["dryrun", "unknown"]),
    ],
)
def test_what_a_command_line_can_get_wrong(tokens, parts, write, capsys):
    assert_error(["--config", write(MINIMAL), *tokens], ["command line", *parts], capsys)


def test_stray_words_and_no_config_are_errors(write, capsys):
    assert_error(["--config", write(MINIMAL), "--dry-run", "lr"], ["command line", "'lr'"], capsys)
    assert_error(["--policy.lr", "1"], ["--config"], capsys)


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        (["--data.files", "[]"], ["data.files", "at least one"]),
        (["--policy.path="], ["policy.path", "directory"]),
        (["--data.batch_size=0"], ["data.batch_size", "1 or more", "found 0"]),
        (["--run.epochs=0"], ["run.epochs", "run.steps"]),
        (["--run.resume=newest"], ["run.resume", '"latest"']),
        (["--rollout.temperature=2.5"], ["rollout.temperature", "0 to 2", "2.5"]),
        (["--reward.reader.temperature=2.1"], ["reward.reader.temperature", "0 to 2", "2.1"]),
        (["--run.name=a/b"], ["run.name", "slash"]),
        (["--data.max_skipped_share=2"], ["data.max_skipped_share", "between 0 and 1"]),
        (["--media.video_max_frames=2"], ["media.video_max_frames", "video_min_frames = 4"]),
        (["--media.video_fps=0"], ["media.video_fps", "more than 0"]),
        (["--policy.betas=[0.9]"], ["policy.betas", "two numbers"]),
        (["--policy.freeze", '["eyes"]'], ["policy.freeze", '"vision", "projector", "language"']),
        (
            ["--policy.freeze", '["vision", "projector", "language"]'],
            ["policy.freeze", "left to be trained"],
        ),
        (["--rollout.n=1"], ["rollout.n", "2 or more", "algorithm.advantage.type = 'grpo'"]),
        (["--rollout.temperature=0"], ["rollout.temperature", "more than 0"]),
        (["--rollout.top_p=0"], ["rollout.top_p", "at most 1"]),
        (["--rollout.max_tokens=18000"], ["rollout.max_tokens", "rollout.max_model_len = 18000"]),
        (
            ["--data.max_prompt_tokens=14000"],
            ["rollout.max_model_len", "max_prompt_tokens = 14000"],
        ),
        (["--rollout.gpu_memory_utilization=0.9"], ["reader.gpu_memory_utilization", "leaves"]),
        (["--reward.reader.endpoint=http://x"], ["reward.reader.path", "not both"]),
        (["--reward.reader.path="], ["reward.reader.path", "neither"]),
        (
            ["--reward.reader.path=", "--reward.reader.endpoint=http://x"],
            ["reward.reader.model", "endpoint = 'http://x'"],
        ),
        (["--reward.reader.path=", "--reward.reader.endpoint=x"], ["endpoint", "http://"]),
        (
            [
                "--reward.reader.path=",
                "--reward.reader.endpoint=http://x",
                "--reward.reader.model=m",
                "--reward.reader.top_k=5",
            ],
            ["reward.reader.top_k", "in process", "endpoint = 'http://x'"],
        ),
        (
            [
                "--reward.reader.path=",
                "--reward.reader.endpoint=http://x",
                "--reward.reader.model=m",
                "--reward.reader.sleep=true",
            ],
            ["reward.reader.sleep", "in process", "endpoint = 'http://x'"],
        ),
        (["--reward.reader.max_model_len=2000"], ["reader.max_model_len", "max_tokens = 4096"]),
        (["--reward.terms.timestamps.weight=-1"], ["terms.timestamps.weight", "0 or more"]),
        (["--reward.terms.length.l2=1000"], ["length.l2", "reward.terms.length.l1 = 2048"]),
        (["--reward.terms.total.type=length"], ["reward.terms.total", "another name"]),
        (["--reward.terms.accuracy.weight=0"], ["accuracy.weight", "at least one term"]),
        (
            ["--reward.terms.accuracy.type=none"],
            ["reward.terms.accuracy.type", "at least one term"],
        ),
        (["--algorithm.loss.clip_low=1"], ["algorithm.loss.clip_low", "less than 1"]),
        (["--algorithm.loss.clip_high=-0.1"], ["algorithm.loss.clip_high", "0 or more"]),
        (["--algorithm.loss.dual_clip=0.5"], ["algorithm.loss.dual_clip", "more than 1"]),
        (["--algorithm.corrections.tis.cap=0.5"], ["corrections.tis.cap", "1 or more"]),
        (
            [
                "--rollout.top_k=5",
                "--algorithm.corrections.tis.type=none",
                "--algorithm.old=engine",
            ],
            ["rollout.top_k", 'algorithm.old = "trainer"', "algorithm.old = 'engine'"],
        ),
        (
            ["--algorithm.old=engine"],
            ["algorithm.old", "corrections.tis.type = 'tis'", '"trainer", or'],
        ),
        (
            ["--algorithm.old=engine", "--algorithm.corrections.tis.type=mask"],
            ["algorithm.old", "corrections.tis.type = 'mask'"],
        ),
        (
            ["--algorithm.advantage.type=gdpo", "--run.shuffle_rewards=true"],
            ["run.shuffle_rewards", "advantage.type = 'gdpo'"],
        ),
        (
            ["--algorithm.loss.type=custom", "--algorithm.loss.import_path=no_such.module:loss"],
            ["algorithm.loss.import_path", "can be imported (No module named 'no_such')"],
        ),
        (
            ["--algorithm.kl.type=custom", "--algorithm.kl.import_path=x"],
            ["algorithm.kl.import_path", "expected package.module:name"],
        ),
        (["--algorithm.updates=3"], ["algorithm.updates", "data.batch_size = 128"]),
        (["--eval.every=5"], ["eval.every", "eval_files", "data.hold_out"]),
        (
            ["--data.hold_out=0.1", "--data.eval_files=['e.jsonl']"],
            ["data.hold_out", "data.eval_files = ['e.jsonl']"],
        ),
        (["--data.hold_out=1"], ["data.hold_out", "less than 1"]),
        (["--policy.schedule_steps=9"], ["policy.schedule_steps", "schedule = 'constant'"]),
        (
            ["--policy.schedule_steps=9", "--policy.schedule=cosine", "--policy.warmup_steps=9"],
            ["policy.schedule_steps", "warmup_steps = 9"],
        ),
        (
            ["--policy.lr_vision=0.1", "--policy.freeze=['vision']"],
            ["policy.lr_vision", "nothing of the vision is trained", "policy.freeze"],
        ),
        (
            ["--policy.lr_projector=0.1", "--policy.lora.rank=4"],
            ["policy.lr_projector", "nothing of the projector", "policy.lora.targets"],
        ),
        (["--policy.lora.sync=merged"], ["policy.lora.sync", "'adapter' without an adapter"]),
        (["--log.rollouts=-2"], ["log.rollouts", "-1 or more"]),
    ],
)
def test_contradictions_never_start(tokens, parts, write, capsys):
    assert_error(["--config", write(MINIMAL), *tokens], ["command line", *parts], capsys)


def test_a_contradiction_names_the_file_that_set_either_side(write, capsys):
    file = write(MINIMAL + "[reward.terms.length]\nl1 = 4000\n")
    parts = ["a.toml:10: reward.terms.length.l2", "3072 (default)"]
    assert_error(["--config", file], parts, capsys)


def assert_error(argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_cli(Config, argv, "caprl_native.train")
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ") and message.count("\n") == 1
    assert [part for part in parts if part not in message] == []


# --- the command line -------------------------------------------------------------------------


def test_parse_cli(write):
    first, second = write(MINIMAL), write("[rollout]\nn = 4\n", "b.toml")
    argv = ["--config", first, second, "--dry-run", "--policy.lr", "1e-5", "--resume"]
    args = parse_cli(Config, argv, "caprl_native.train")
    assert args.dry_run and args.files == ("a.toml", "b.toml")
    assert (args.config.rollout.n, args.config.policy.lr) == (4, 1e-5)
    assert args.config.run.resume == "latest"
    again = ["--config", first, "--config=" + second, "--resume", "50"]
    assert parse_cli(Config, again, "x").config.run.resume == "50"


def test_supervised_runs_have_their_own_check(write, capsys):
    file = write("[data]\nfiles = ['a.jsonl']\n[policy]\npath = 'm'\n")
    assert parse_cli(SftConfig, ["--config", file], "x").config.data.loss_on == "assistant"
    with pytest.raises(SystemExit):
        parse_cli(SftConfig, ["--config", file, "--run.shuffle_rewards", "true"], "x")
    assert "no rewards" in capsys.readouterr().err


@pytest.mark.parametrize("schema", [Config, SftConfig])
def test_help_lists_every_field_with_its_default(schema, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_cli(schema, ["--help"], "caprl_native.train")
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--dry-run" in shown and help_text(schema) in shown
    for leaf in leaves(schema):
        assert leaf.help, f"{leaf.key} is not documented"
        assert f"--{leaf.key}  (" in shown and leaf.help in shown
    assert "--policy.lr  (a finite number; default 1e-06)" in shown


def test_every_field_is_a_table_or_a_setting_of_a_known_type():
    keys = [leaf.key for leaf in leaves(Config)]
    assert len(keys) == len(set(keys)) > 80
    assert "reward.reader.path" in keys and "run.seed" in keys
    tables = {name: getattr(Config(), name) for name in Config.model_fields if name != "plugins"}
    assert all(isinstance(table, BaseModel) for table in tables.values())


def test_the_process_exits_with_code_2_and_one_line(write):
    file = write("[run]\nsteps = 'ten'\n")
    code = (
        "from caprl_native.config.schema import Config;"
        "from caprl_native.config.cli import parse_cli;"
        f"parse_cli(Config, ['--config', {file!r}], 'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(RECIPES[0].parent.parent)},
        timeout=120,
    )
    assert done.returncode == 2
    wanted = "error: a.toml:2: run.steps: expected a whole number, found 'ten'\n"
    assert done.stderr == wanted and done.stdout == ""
