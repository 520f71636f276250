"""Passwords and keys in texts: what is taken out, and what stays."""

from __future__ import annotations

import pytest

from caprl_native.config.cli import dump, load
from caprl_native.config.models import ReaderConfig
from caprl_native.inference.endpoint import settings_problem
from caprl_native.redact import redact, without_userinfo
from caprl_native.sft import main as sft
from caprl_native.train import main as train

SECRET = "hunter2-pass"
KEYS = (
    "sk-proj-Ab12Cd34Ef56", "hf_AbCdEfGhIjKlMnOpQrStUv", "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789abcdefghij0123", "AIzaSyA0123456789abcdefghijklmnop",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:{SECRET}@host:8000/v1",
        f"https://{SECRET}@host/v1",
        f"http://me:{SECRET}@@host/v1",
        f"http://me:a/{SECRET}@host/v1",
        f"http://me:{SECRET}:x@[::1]:80/v1",
        f"at http://h/v1?api_key={SECRET}&x=1 and",
        f"http://h/v1?x=1&access_token={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f'"authorization": "Basic {SECRET}"',
        *(key.replace("", "") for key in KEYS),
        *(f'model = "{key}"  # a comment' for key in KEYS),
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    shown = redact(text)
    assert SECRET not in shown and not any(key in shown for key in KEYS) and "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1",
        "https://host/a@b/c?d=e",
        "outputs/task-forces-and-desks/run_1",
        "/models/sk-learned-2024-model",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "someone@example.com, hf_hub, key = 3, the bearer of news",
        "(\\d+)://\\w+",
        "s3://bucket/key",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text


def test_named_secrets_go_the_longest_first() -> None:
    assert redact("abcdef abc abcd", "abcd", "abcdef", "abc") == "*** abc ***"


def test_a_url_without_its_user() -> None:
    assert without_userinfo("http://u:p@h:8/v1?q=1") == "http://h:8/v1?q=1"
    assert without_userinfo("http://h/v1#") == "http://h/v1#"


def words(**reader: str) -> list[str]:
    given = {"endpoint": f"http://me:{SECRET}@h/v1", "model": "m", "path": ""} | reader
    settings = [f"--reward.reader.{name}={value}" for name, value in given.items()]
    return ["--config", "image.toml", "--policy.path=demo_models/policy",
            "--data.files=['x.jsonl']", *settings]  # fmt: skip


@pytest.mark.parametrize("key", ["sk-proj-abc123def456", "0123456789abcdef", "abc-def"])
def test_a_key_where_a_name_belongs_is_refused_unseen(key: str, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        train([*words(api_key_env=key), "--dry-run"])
    said = capsys.readouterr()
    assert error.value.code == 2 and "reward.reader.api_key_env" in said.err
    assert key not in said.out + said.err and SECRET not in said.out + said.err


def test_a_key_in_a_command_line_that_is_wrong_is_not_repeated(capsys) -> None:
    wrong = [
        [f"--reward.reader.retries={KEYS[0]}"],
        [KEYS[0]],
        [f"--log.wandb={KEYS[0]}"],
        [f"--reward.reader.endpoint=me:{SECRET}@h", "--reward.reader.path="],
        [f"--run.seed=http://me:{SECRET}@h"],
    ]
    for argv in wrong:
        for program in (train, sft):
            with pytest.raises(SystemExit):
                program([*argv, "--config", "image.toml"])
            said = capsys.readouterr()
            assert said.err.startswith("error: ")
            assert not any(s in said.out + said.err for s in (SECRET, KEYS[0])), argv


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("ftp://h/v1", "starts with http"),
        ("http:///v1", "no host"),
        ("http://h:99999/v1", "no URL"),
        ("http://[::1/v1", "no URL"),
        ("http://***@h/v1", "password is hidden"),
    ],
)
def test_urls_that_are_none(endpoint: str, why: str) -> None:
    field, problem = settings_problem(ReaderConfig(endpoint=endpoint, model="m"))
    assert field == "endpoint" and why in problem and endpoint not in problem


def test_what_a_config_is_written_as_loads_as_it_was() -> None:
    """`dump` keeps secrets, for it is what a program reads again; what is shown is redacted."""
    config = ReaderConfig(endpoint=f"http://me:{SECRET}@h/v1")
    assert SECRET in dump(config) and SECRET not in redact(dump(config))
    assert load(ReaderConfig, [], [f"--endpoint=http://me:{SECRET}@h/v1"]) == config
