"""Tables whose keys depend on a type, by registries and a schema of this file's own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from caprl_native.bounds import UserPath
from caprl_native.config.cli import parse_cli
from caprl_native.config.fields import Named, OneOf, Table
from caprl_native.config.load import dump, help_text, load, load_with_origins
from caprl_native.config.schema import Program
from caprl_native.config.toml import ConfigError
from caprl_native.config.tree import leaves
from caprl_native.registry import Options, Registry

LOSSES: Registry[Any] = Registry("loss", "concurrent")
TERMS: Registry[Any] = Registry("reward", "concurrent")


class Ppo(Options):
    """Clipped ratio per token. A second sentence."""

    type: Literal["ppo"] = "ppo"
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below 1 - this.")
    dual_clip: float = Field(0.0, ge=0, description="Bound of the loss.")


class Gspo(Options):
    type: Literal["gspo"] = "gspo"
    clip_low: float = Field(3e-4, ge=0, lt=1, description="Of the sequence's ratio.")


class Custom(Options):
    type: Literal["custom"] = "custom"
    import_path: str = Field("", description="package.module:name.")
    options: dict[str, Any] = Field({}, description="Its arguments.")


class Length(Options):
    type: Literal["length"] = "length"
    weight: float = Field(1.0, ge=0, description="Its weight.")
    l1: int = Field(10, ge=1, description="Up to here.")


class Judge(Options):
    type: Literal["judge"] = "judge"
    weight: float = Field(1.0, ge=0, description="Its weight.")
    prompt: UserPath = Field("", description="File of the prompt.")
    scale: list[int] = Field([1, 5], description="Lowest and highest mark.")


for options in (Ppo, Gspo, Custom):
    LOSSES.register(options)(lambda: None)
for options in (Length, Judge, Custom):
    TERMS.register(options)(lambda: None)


class Algorithm(Table):
    loss: Annotated[Options, OneOf(LOSSES)] = Field({"type": "ppo"}, description="The loss.")


class Reward(Table):
    terms: Annotated[dict[str, Options], Named(TERMS)] = Field(
        {"length": {"weight": 0.5}}, description="What is rewarded."
    )


class Schema(Program):
    moved: ClassVar[dict[str, str]] = {
        "algorithm.clip": "algorithm.loss.clip_low",
        "algorithm.loss": "algorithm.loss.type",
        "reward.length.": "reward.terms.length.",
    }
    algorithm: Algorithm = Field(default_factory=Algorithm)
    reward: Reward = Field(default_factory=Reward)


def test_defaults_are_options():
    config = Schema()
    assert config.algorithm.loss == Ppo()
    assert config.reward.terms == {"length": Length(weight=0.5)}
    config.reward.terms["length"].weight = 0.1
    assert Schema().reward.terms["length"].weight == 0.5
    config.algorithm.loss = Gspo(clip_low=0.1)
    with pytest.raises(ValidationError):
        config.algorithm.loss.clip_low = 1.0
    with pytest.raises(ValidationError):
        config.algorithm.loss = {"type": "none"}


def test_the_type_decides_the_keys_and_their_defaults(write):
    file = write('[algorithm.loss]\ntype = "gspo"\n')
    assert load(Schema, [file]).algorithm.loss == Gspo()
    config, origins = load_with_origins(Schema, [], ["--algorithm.loss.dual_clip", "3"])
    assert config.algorithm.loss == Ppo(dual_clip=3)
    assert origins == {"algorithm.loss.dual_clip": "command line"}


def test_named_tables_merge_by_name_and_key_over_files_and_command_line(write):
    first = write('[reward.terms.length]\nl1 = 20\n[reward.terms.style]\ntype = "judge"\n')
    second = write("[reward.terms]\nstyle.weight = 0.3\njudge = {scale = [0, 1]}\n", "b.toml")
    config, origins = load_with_origins(
        Schema, [first, second], ["--reward.terms.length.weight", "0.2"]
    )
    assert config.reward.terms == {
        "length": Length(weight=0.2, l1=20),
        "style": Judge(weight=0.3),
        "judge": Judge(scale=[0, 1]),
    }
    assert origins["reward.terms.length.l1"] == "a.toml:2"
    assert origins["reward.terms.style.weight"] == "b.toml:2"
    assert origins.of("reward.terms.judge.scale") == "b.toml:3"


def test_a_later_type_starts_the_table_anew(write):
    file = write("[algorithm.loss]\nclip_low = 0.1\ndual_clip = 3.0\n[reward.terms.length]\nl1=3\n")
    argv = ["--algorithm.loss.type", "gspo", "--reward.terms.length.type=judge"]
    config, origins = load_with_origins(Schema, [file], argv)
    assert config.algorithm.loss == Gspo() and config.reward.terms == {"length": Judge()}
    assert set(origins) == {"algorithm.loss.type", "reward.terms.length.type"}
    assert load(Schema, [file], ["--algorithm.loss.type=ppo"]).algorithm.loss.dual_clip == 3


def test_a_named_table_is_switched_off(write):
    off = ["--reward.terms.length.type", "none"]
    for files in ([], [write("[reward.terms.length]\nl1 = 3\n")]):
        config = load(Schema, files, off)
        assert config.reward.terms == {}
        assert '[reward.terms.length]\ntype = "none"\n' in dump(config)
        assert load(Schema, [write(dump(config), "b.toml")]) == config


def test_a_free_table_and_an_import_path(write):
    text = '[algorithm.loss]\ntype = "custom"\nimport_path = "a.py:f"\n'
    text += '[algorithm.loss.options]\n"odd key" = ["x", {y = 1.5}]\nz = true\n'
    config = load(Schema, [write(text)])
    assert config.algorithm.loss.options == {"odd key": ["x", {"y": 1.5}], "z": True}
    assert load(Schema, [write(dump(config), "b.toml")]) == config
    given = ["--algorithm.loss.type=custom", "--algorithm.loss.options", "{a = 1}"]
    assert load(Schema, [], given).algorithm.loss.options == {"a": 1}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            '[algorithm.loss]\ntype = "gpso"\n',
            ["a.toml:2: algorithm.loss.type", '"custom", "gspo", "ppo"', "'gpso'"],
        ),
        ("[algorithm.loss]\ntype = 3\n", ["a.toml:2: algorithm.loss.type", "one of", "3"]),
        (
            '[algorithm.loss]\ntype = "gspo"\ndual_clip = 2.0\n',
            ["a.toml:3: algorithm.loss.dual_clip", 'type = "gspo"', '"ppo" has it'],
        ),
        (
            "[reward.terms.length]\nprompt = 'x'\n",
            ["a.toml:2: reward.terms.length.prompt", 'type = "length" (default)', '"judge" has it'],
        ),
        ("[algorithm.loss]\nclip_lo = 1\n", ["a.toml:2", '"algorithm.loss.clip_low"']),
        (
            "[reward.terms.style]\nweight = 1\n",
            ["a.toml:1: reward.terms.style.type", '"judge", "length"', "found none"],
        ),
        ("[reward.terms]\n'a b' = {type = 'judge'}\n", ["a.toml:1: reward.terms", "'a b'"]),
        ("[reward.terms]\njudge = 3\n", ["a.toml:2: reward.terms.judge", "a table", "found 3"]),
        ("[reward]\nterms = 3\n", ["a.toml:2: reward.terms", "a table", "found 3"]),
        ("[reward.terms.length]\nweight = -1\n", ["length.weight: expected 0 or more, found -1.0"]),
        ("[algorithm.loss]\nclip_low = 1\n", ["a.toml:2", "0 or more, less than 1, found 1.0"]),
        ('[reward.terms.length]\ntype = "none"\nl1 = 2\n', ["a.toml:3", '"length" has it']),
        ('[reward.terms.judge]\nscale = [1, "a"]\n', ["a.toml:2", "a list of whole numbers"]),
        ("[algorithm]\nclip = 0.1\n", ['algorithm.clip: is now "algorithm.loss.clip_low"']),
        (
            '[algorithm]\nloss = "gspo"\n',
            ['algorithm.loss: is now "algorithm.loss.type"'],
        ),
        ("[reward.length]\nl1 = 2\n", ['reward.length.l1: is now "reward.terms.length.l1"']),
        ("plugins = 'x'\n", ["a.toml:1: plugins: expected a list of texts"]),
        ("plugins = ['no_such_module']\n", ["a.toml:1: plugins: 'no_such_module'", "No module"]),
        ("plugins = ['none.py']\n", ["a.toml:1: plugins: 'none.py'", "no Python file"]),
    ],
)
def test_what_can_go_wrong(text, parts, write):
    with pytest.raises(ConfigError) as error:
        load(Schema, [write(text)])
    assert [part for part in parts if part not in str(error.value)] == [], error.value


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--algorithm.loss", "gspo"], ['is now "algorithm.loss.type"']),
        (["--algorithm.loss.type", "x"], ['expected one of "custom", "gspo", "ppo"']),
        (["--algorithm.loss.type"], ["found no value"]),
        (["--reward.terms.length", "1"], ["reward.terms.length: unknown key", "terms.length"]),
        (["--reward.terms.new.weight", "1"], ["reward.terms.new.type: expected one of"]),
        (["--reward.length.l1", "1"], ['is now "reward.terms.length.l1"']),
        (
            ["--algorithm.loss.type=gspo", "--algorithm.loss.dual_clip=2"],
            ['algorithm.loss.type = "gspo" (command line); "ppo" has it'],
        ),
    ],
)
def test_what_can_go_wrong_on_the_command_line(words, parts):
    with pytest.raises(ConfigError) as error:
        load(Schema, [], words)
    assert [part for part in ["command line", *parts] if part not in str(error.value)] == []


def test_home_is_expanded_in_options(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = load(Schema, [], ["--reward.terms.judge.prompt", "~/p.txt"])
    assert config.reward.terms["judge"].prompt == "/home/me/p.txt"


def test_every_choice_round_trips(write):
    for kind in LOSSES:
        config = load(Schema, [], [f"--algorithm.loss.type={kind}"])
        assert config.algorithm.loss == LOSSES[kind].options()
        assert load(Schema, [write(dump(config))]) == config
    for kind in TERMS:
        config = load(Schema, [], [f"--reward.terms.x.type={kind}"])
        assert config.reward.terms["x"] == TERMS[kind].options()
        assert load(Schema, [write(dump(config))]) == config


def test_help_tells_of_every_type():
    text = help_text(Schema)
    for leaf in leaves(Schema):
        assert f"--{leaf.key}  (" in text
    for part in ("--algorithm.loss.clip_low  (a finite number; default 0.0003)", "gspo",
                 "Clipped ratio per token.", "--reward.terms.judge.prompt", "Bound of the loss.",
                 "--reward.terms.length.weight  (a finite number; default 0.5)",
                 "Valid: 0 or more, less than 1."):  # fmt: skip
        assert part in text, part


PLUGIN = """\
from typing import Literal
from pydantic import Field
from test_choices import LOSSES
from caprl_native.registry import Options

class Mine(Options):
    "Mine alone."
    type: Literal["mine"] = "mine"
    knob: float = Field(0.5, description="What it turns.")

@LOSSES.register(Mine)
def mine():
    pass
"""


def test_a_plugin_file_adds_a_type(write, capsys):
    plugin = write(PLUGIN, "my_loss_of_a_plugin.py")
    file = write(f'plugins = ["{plugin}"]\n[algorithm.loss]\ntype = "mine"\nknob = 2\n')
    config = load(Schema, [file])
    assert config.algorithm.loss.knob == 2.0
    assert load(Schema, [write(dump(config), "b.toml")]) == config
    built = Schema(plugins=[plugin])
    built.algorithm.loss = {"type": "mine", "knob": 2}
    assert built.algorithm.loss == config.algorithm.loss
    with pytest.raises(ValidationError, match="no Python file"):
        built.plugins = ["none.py"]
    for words in (["--config", file], ["--plugins", plugin], [f'--plugins=["{plugin}"]']):
        del LOSSES._entries["mine"]
        del __import__("sys").modules["my_loss_of_a_plugin"]
        with pytest.raises(SystemExit):
            parse_cli(Schema, ["--help", *words], "x")
        told = capsys.readouterr().out
        assert "--algorithm.loss.knob  (a finite number; default 0.5)" in told
        assert "Mine alone." in told
