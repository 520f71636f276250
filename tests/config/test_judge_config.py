"""The judge's settings: what cannot be meant, what this machine lacks, and that no key is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.config.load import dump, load, load_with_origins
from caprl_native.config.rules import check
from caprl_native.config.schema import Config
from caprl_native.config.toml import ConfigError
from caprl_native.dry_run import check_machine
from caprl_native.rewards.rubric import overlaps

KEY = "0123456789abcdef0123456789abcdef"
GIVEN = ["--policy.path", "x", "--data.files", '["d.jsonl"]', "--eval.every", "0"]
GIVEN += ["--reward.terms.accuracy.weight", "0", "--rollout.gpu_memory_utilization", "0.5"]
HERE, THERE = ["path", "judge"], ["endpoint", "http://127.0.0.1:1/v1", "model", "m"]


def config(*settings: str) -> Config:
    words = [w for name, value in zip(settings[::2], settings[1::2], strict=True)
             for w in (f"--reward.terms.judge.{name}", value)]  # fmt: skip
    return load(Config, [], [*GIVEN, "--reward.terms.judge.type", "judge", *words])


@pytest.mark.parametrize("settings", [HERE, THERE, ["endpoint_file", "f.json", "model", "m"]])
def test_one_who_judges(settings: list[str]) -> None:
    judge = config(*settings)
    check(judge)
    assert not judge.reward.reads
    assert overlaps(judge.reward) == (settings is not HERE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "judge.path: expected one of path, endpoint and endpoint_file"),
        ([*HERE, *THERE], "judge.path: expected one of path, endpoint and endpoint_file"),
        (THERE[:2], "judge.model: expected the model's name at the endpoint"),
        (["endpoint_file", "f.json"], "judge.model: expected the model's name"),
        ([*THERE, "top_k", "4"], "judge.top_k: expected 0 with an endpoint"),
        ([*THERE, "sleep", "true"], "judge.sleep: expected false with an endpoint"),
        ([*HERE, "max_model_len", "256"], "judge.max_tokens: expected less than max_model_len"),
        ([*HERE, "samples", "3", "temperature", "0"], "judge.samples: expected 1 at temperature 0"),
        ([*HERE, "gpu_memory_utilization", "0.6"], "no more than the other engines leave"),
        ([*THERE[2:], "endpoint", "ftp://x"], "judge.endpoint: expected a URL that starts with"),
        ([*THERE, "api_key_env", "sk-no name"], "judge.api_key_env: is not the name of an"),
    ],
)
def test_settings_that_cannot_be_meant(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(config(*settings))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "weights", ["[1, 0, 0]", "[0, 0, 0, 0]", "[1, 1, 1, -1]", "[1, 1, 1, 1, 1]"]
)
def test_weights_that_weigh_nothing(weights: str) -> None:
    with pytest.raises(ConfigError, match="4 numbers, none below 0 and not all of them 0"):
        config(*THERE, "video_weights", weights)


def test_a_key_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(ConfigError) as raised:
        check(config(*THERE, "api_key_env", f"{KEY}!"))
    assert KEY not in str(raised.value)
    with pytest.raises(ConfigError, match="an endpoint file names its servers' keys") as raised:
        check(config("endpoint_file", "f", "model", "m", "api_key_env", KEY.replace("0", "A")))
    assert KEY.replace("0", "A") not in str(raised.value)


def lack(settings: list[str], folder: Path) -> str:
    """What the check of this machine says after the policy's own part of it."""
    judged = config(*settings)
    for name, options in judged.reward.terms.items():
        if options.weight:
            return next((f"{name}.{field}: {why}" for field, why in options.lacks()), "")
    raise AssertionError("no term")


def test_what_this_machine_lacks(tmp_path, monkeypatch, tiny_policy, tiny_reader) -> None:
    assert "judge.path: expected a vision-language model" in lack(HERE, tmp_path)
    assert lack(["path", str(tiny_policy)], tmp_path) == ""
    assert "judge.path" in lack(["path", str(tiny_reader)], tmp_path)
    monkeypatch.delenv("CAPRL_TEST_KEY", raising=False)
    assert "CAPRL_TEST_KEY is not set" in lack([*THERE, "api_key_env", "CAPRL_TEST_KEY"], tmp_path)
    file = tmp_path / "servers.json"
    there = ["endpoint_file", str(file), "model", "m"]
    assert "cannot be read" in lack(there, tmp_path)
    file.write_text(json.dumps({"m": {"base_url": "http://x/v1", "api_key": KEY}}))
    assert lack(there, tmp_path) == ""


def test_the_check_at_the_start_asks_the_terms(tmp_path, tiny_policy) -> None:
    words = [*GIVEN, "--policy.path", str(tiny_policy), "--run.dir", str(tmp_path / "run")]
    words += ["--reward.terms.judge.endpoint_file", str(tmp_path / "none.json")]
    words += ["--reward.terms.judge.model", "m"]
    loaded, origins = load_with_origins(Config, [], words)
    with pytest.raises(ConfigError, match=r"reward\.terms\.judge\.endpoint_file: .*none\.json"):
        check_machine(loaded, origins)


def test_the_copy_of_the_config_names_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "servers.json"
    file.write_text(json.dumps({"m": {"base_url": "http://x/v1", "api_key": KEY}}))
    judged = config("endpoint_file", str(file), "model", "m")
    text = dump(judged)
    assert str(file) in text and KEY not in text
    again = tmp_path / "again.toml"
    again.write_text(text)
    assert load(Config, [str(again)]) == judged
