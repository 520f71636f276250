"""`base`: the files that a config file is laid over."""

from __future__ import annotations

import pytest

from caprl_native.config.cli import ConfigError, dump, load, parse_cli
from caprl_native.config.load import load_with_origins
from caprl_native.config.schema import Config
from tests.config.conftest import MINIMAL


def test_a_file_is_laid_over_its_bases(write):
    write('[policy]\nlr = 1e-5\npath = "m"\nbetas = [0.5, 0.6]\n')
    write("[rollout]\nn = 4\ntop_k = 3\n[policy]\nlr = 2e-5\n", "b.toml")
    top = write('base = ["a.toml", "b.toml"]\n[rollout]\nn = 6\n', "top.toml")
    last = write("[rollout]\ntop_k = 5\n", "last.toml")
    config, origins = load_with_origins(Config, [top, last], ["--policy.eps=1e-7"])
    assert (config.policy.path, config.policy.lr, config.rollout.n) == ("m", 2e-5, 6)
    assert (config.rollout.top_k, config.policy.eps) == (5, 1e-7)
    assert origins["policy.path"] == "a.toml:3" and origins["policy.lr"] == "b.toml:5"
    assert origins["rollout.n"] == "top.toml:3" and origins["rollout.top_k"] == "last.toml:2"
    resolved = dump(config, origins)
    assert "\nbase" not in resolved and load(Config, [write(resolved, "resolved.toml")]) == config


def test_names_start_at_the_file_and_then_at_the_recipes(write, tmp_path):
    (tmp_path / "sub").mkdir()
    write("[rollout]\nn = 4\n", "sub/low.toml")
    write('base = "low.toml"\n', "sub/middle.toml")
    write("[rollout]\nn = 99\n", "low.toml")
    assert load(Config, [write('base = "sub/middle.toml"\n')]).rollout.n == 4
    assert load(Config, [write('base = "../low.toml"\n', "sub/b.toml")]).rollout.n == 99
    assert load(Config, [write(f'base = "{tmp_path}/low.toml"\n')]).rollout.n == 99
    assert load(Config, [write('base = "video.toml"\n')]).run.name == "video"


def test_a_base_that_gives_a_table_another_type_starts_it_over(write):
    write('[algorithm.loss]\ntype = "cispo"\nclip_high = 0.3\n')
    top = write('base = "a.toml"\n[algorithm.loss]\ntype = "ppo"\nratio_cap = 2.0\n', "b.toml")
    loss = load(Config, [top]).algorithm.loss
    assert (loss.type, loss.clip_high, loss.ratio_cap) == ("ppo", 0.2, 2.0)


def test_a_base_may_be_named_more_than_once(write):
    write(MINIMAL)
    for name in ("b", "c"):
        write(f'base = "a.toml"\n[run]\nname = "{name}"\n', f"{name}.toml")
    config = load(Config, [write('base = ["b.toml", "c.toml"]\n', "d.toml")])
    assert config.run.name == "c" and config.policy.path == "model"


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (
            {"a.toml": 'base = "b.toml"\n', "b.toml": '\nbase = "a.toml"\n'},
            ["b.toml:2: base", "'a.toml'", "a.toml -> b.toml -> a.toml"],
        ),
        ({"a.toml": 'base = "./a.toml"\n'}, ["a.toml:1: base", "a.toml -> a.toml"]),
        (
            {"a.toml": '# x\nbase = "vidoe.toml"\n'},
            ["a.toml:2: base: vidoe.toml: expected a config file", "train_configs/vidoe.toml"],
        ),
        ({"a.toml": 'base = "~nobody-here/x.toml"\n'}, ["a.toml:1: base: ~nobody-here/x.toml"]),
        ({"a.toml": "base = 3\n"}, ["a.toml:1: base: expected a config file's name", "found 3"]),
        ({"a.toml": 'base = ["b.toml", 1]\n'}, ["a.toml:1: base", "a list of such names"]),
        ({"a.toml": "[base]\nlr = 1\n"}, ["a.toml:1: base", "a list of such names"]),
        (
            {"a.toml": 'base = "b.toml"\n', "b.toml": "[policy]\nlr = 'big'\n"},
            ["b.toml:2: policy.lr: expected a finite number"],
        ),
    ],
)
def test_what_a_base_can_get_wrong(write, files, parts):
    for name, text in files.items():
        write(text, name)
    with pytest.raises(ConfigError) as error:
        load(Config, ["a.toml"])
    assert [part for part in parts if part not in str(error.value)] == []


def test_bases_are_named_in_files_alone(write, capsys):
    with pytest.raises(SystemExit):
        parse_cli(Config, ["--config", write(MINIMAL), "--base", "b.toml"], "x")
    assert "command line: base: unknown key" in capsys.readouterr().err
