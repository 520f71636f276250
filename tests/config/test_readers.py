"""Several readers, and one that is held out: how they are set, and what goes together."""

from __future__ import annotations

import pytest

from caprl_native.config.cli import parse_cli
from caprl_native.config.load import dump, load
from caprl_native.config.models import ReaderConfig
from caprl_native.config.schema import Config
from tests.config.conftest import MINIMAL

TWO_MORE = """
[[reward.readers]]
path = "~/second"
temperature = 1
gpu_memory_utilization = 0.1

[[reward.readers]]
endpoint = ["http://127.0.0.1:1/v1"]
model = "third"

[reward.held_out_reader]
endpoint = "http://127.0.0.1:2/v1"
model = "other"
every = 5
"""


def parsed(*argv: str) -> Config:
    return parse_cli(Config, ["--config", *argv], "test").config


def test_further_readers_are_tables_of_a_list(write) -> None:
    config = parsed(write(MINIMAL + TWO_MORE))
    second, third = config.reward.readers
    assert isinstance(second, ReaderConfig) and second.temperature == 1.0
    assert second.path.endswith("/second") and "~" not in second.path
    assert third.endpoint == ["http://127.0.0.1:1/v1"] and third.max_tokens == 10
    assert config.reward.held_out_reader.every == 5
    assert list(config.reward.asked) == [
        "reward.reader",
        "reward.readers.0",
        "reward.readers.1",
        "reward.held_out_reader",
    ]
    assert list(config.reward.in_process) == ["reward.reader", "reward.readers.0"]
    assert load(Config, [write(dump(config), "b.toml")]) == config


def test_on_the_command_line_they_are_one_value(write) -> None:
    argv = ["--reward.readers", '[{path = "x", gpu_memory_utilization = 0.1}]']
    config = parsed(write(MINIMAL + TWO_MORE), *argv)
    assert [reader.path for reader in config.reward.readers] == ["x"]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ('[[reward.readers]]\npth = "x"', ["a.toml:9: reward.readers.0.pth"]),
        ("[[reward.readers]]\ntop_p = 2", ["a.toml:9: reward.readers.0.top_p", "found 2"]),
        ('[[reward.readers]]\ntop_p = "x"', ["a.toml:9: reward.readers: expected a list of table"]),
        ("[reward]\nreaders = 3", ["reward.readers: expected a list of tables", "found 3"]),
        ("[[reward.readers]]\ntop_p = 1.0", ["a.toml:9: reward.readers.0.path", "neither"]),
        ('[[reward.readers]]\nendpoint = "http://x"', ["reward.readers.0.model", "endpoint"]),
        ('[[reward.readers]]\npath = "x"\nmax_model_len = 99', ["reward.readers.0.max_model_len"]),
        (
            '[[reward.readers]]\npath = "x"\n[reward.held_out_reader]\npath = "y"',
            ["reward.held_out_reader.gpu_memory_utilization", "engine leaves", "0.5"],
        ),
        ('[reward.held_out_reader]\npath = "x"\nendpoint = "http://y"', ["not both"]),
        ('[reward.held_out_reader]\npath = "x"\nevery = 0', ["reader.every", "1 or more"]),
        ("[reward.terms.held_out]\ntype = 'length'", ["reward.terms.held_out", "another name"]),
        (
            '[reward.held_out_reader]\npath = "x"\n[reward.terms.length]\n'
            '[reward.terms.accuracy]\ntype = "none"',
            ["reward.held_out_reader.path", "a term of type accuracy"],
        ),
        ("[reward.terms.accuracy]\ndraws = 8", ["a.toml:10: reward.terms.accuracy.draws", "own"]),
        ('[reward.terms.accuracy]\nquestions = "own"', ["accuracy.draws", "1 or more"]),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(write, capsys, given: str, parts) -> None:
    with pytest.raises(SystemExit) as error:
        parsed(write(MINIMAL + given))
    said = capsys.readouterr().err
    assert error.value.code == 2 and said.count("\n") == 1
    for part in parts:
        assert part in said


def test_the_published_recipes_draw_as_published() -> None:
    for name in ("image", "video", "s2d_image", "s2d_video"):
        accuracy = load(Config, [f"{name}.toml"]).reward.terms["accuracy"]
        found = accuracy.questions, accuracy.draws, accuracy.answers, accuracy.misled_weight
        assert found == ("own", 8, "sampled", 0.0)
        assert accuracy.shuffles == 1 and accuracy.cannot_answer
