"""The recipes of the three stages, and what their command line makes of them; no stage runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caprl_native import pretrain
from caprl_native.config.cli import ConfigError, check_sft, dump, load
from caprl_native.config.pretrain import PretrainConfig
from caprl_native.config.schema import SftConfig
from caprl_native.config.tree import value_at
from tests.ranks import ROOT

ALIGN: dict[str, Any] = {
    "policy.freeze": ["vision", "language"],
    "policy.lr": 1e-3,
    "policy.schedule": "cosine",
    "policy.warmup_share": 0.1,
    "policy.betas": [0.9, 0.999],
    "policy.weight_decay": 0.0,
    "policy.max_grad_norm": 1.0,
    "policy.dtype": "bfloat16",
    "data.batch_size": 256,
    "data.max_tokens": 6144,
    "data.loss_on": "assistant",
    "media.image_max_pixels": 1024 * 28 * 28,
    "run.epochs": 1,
}
CAPTIONS = ALIGN | {"policy.freeze": [], "policy.lr": 4e-5}
SFT = CAPTIONS | {
    "policy.lr": 2e-5,
    "data.batch_size": 128,
    "media.image_max_pixels": 2048 * 28 * 28,
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("name", "published"), [("align", ALIGN), ("captions", CAPTIONS), ("sft", SFT)]
)
def test_the_recipes_set_what_was_published(name: str, published: dict[str, Any]) -> None:
    config = load(SftConfig, [f"pretrain_{name}.toml"])
    assert {key: value_at(config, key) for key in published} == published


def test_each_stage_starts_from_the_one_before() -> None:
    chain = pretrain.stages(load(PretrainConfig, ["pretrain.toml"]))
    files = ["pretrain_align.toml", "pretrain_captions.toml", "pretrain_sft.toml"]
    assert [s.config() for s in chain] == [load(SftConfig, [f]) for f in files], (
        "the files say the same for those who start stages by hand"
    )
    without = load(PretrainConfig, ["pretrain.toml"], ['--stages=["align", "sft"]'])
    assert pretrain.stages(without)[1].config().policy.path == "outputs/pretrain_align/export"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--stages=[]"], "in this order"),
        (["--stages=['sft', 'captions']"], "in this order"),
        (["--sft.files=['pretrain_captions.toml']"], "expected two folders"),
    ],
)
def test_chains_that_cannot_be(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        pretrain.stages(load(PretrainConfig, ["pretrain.toml"], words))


def test_another_chain_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """A folder with a run from another model, or with one whose origin nobody can read."""
    (tmp_path / "mine.toml").write_text(f'[run]\ndir = "{tmp_path}/sft"\n')
    files = f"--sft.files=['pretrain_sft.toml', '{tmp_path}/mine.toml']"
    last = pretrain.stages(load(PretrainConfig, ["pretrain.toml"], [files]))[-1]
    pretrain.check_origin(last)
    (tmp_path / "sft").mkdir()
    there = tmp_path / "sft/config.toml"
    for text in (dump(last.config()), '[policy]\npath = "outputs/pretrain_captions/export"\n'):
        there.write_text(text)
        pretrain.check_origin(last)
    without = [files, '--stages=["align", "sft"]']
    other = pretrain.stages(load(PretrainConfig, ["pretrain.toml"], without))[-1]
    said = "holds a run that started from outputs/pretrain_captions/export, and this one starts"
    with pytest.raises(ConfigError, match=said):
        pretrain.check_origin(other)
    there.write_text("[policy")
    with pytest.raises(ConfigError, match="cannot be read"):
        pretrain.check_origin(last)


def test_there_is_one_warm_up() -> None:
    words = ["--policy.warmup_steps=3"]
    with pytest.raises(ConfigError, match=r"policy\.warmup_steps: expected 0 with"):
        check_sft(load(SftConfig, ["pretrain_align.toml"], words))
