"""The endpoint file: which servers it names, and that no message quotes what it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.inference.addresses import Address, AddressError, read_addresses

KEY = "0123456789abcdef0123456789abcdef"
AZURE = {"azure_endpoint": "https://x.openai.azure.com", "api_version": "v1", "api_key": KEY}
OPEN = {"base_url": "http://10.0.0.1:8000/v1"}


def written(folder: Path, listed: object) -> str:
    file = folder / "servers.json"
    file.write_text(listed if isinstance(listed, str) else json.dumps(listed))
    return str(file)


def test_one_object_or_a_list_per_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPRL_TEST_KEY", f" {KEY}\n")
    named = OPEN | {"api_key_env": "CAPRL_TEST_KEY", "model": "qwen"}
    file = written(tmp_path, {"gpt": AZURE, "qwen-vl": [OPEN, named]})
    assert read_addresses(file, "gpt") == [
        Address("https://x.openai.azure.com", KEY, api_version="v1")
    ]
    first, second = read_addresses(file, "qwen-vl")
    assert first == Address("http://10.0.0.1:8000/v1")
    assert second == Address("http://10.0.0.1:8000/v1", KEY, "qwen")
    assert KEY not in repr(second)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (f'{{"gpt": {{"api_key": "{KEY}"', "is no JSON text"),
        (f'["{KEY}"]', "expected an object: model name to server"),
        ({"other": AZURE}, "it lists no 'gpt'"),
        ({"gpt": []}, "'gpt': the list is empty"),
        ({"gpt": KEY}, "'gpt': expected an object with base_url or azure_endpoint"),
        ({"gpt": [OPEN, None]}, "'gpt'[1]: expected an object"),
        ({"gpt": AZURE | {"apikey": KEY}}, "'apikey' is none of base_url, "),
        ({"gpt": AZURE | OPEN}, "expected either base_url or azure_endpoint"),
        ({"gpt": {"api_key": KEY}}, "expected either base_url or azure_endpoint"),
        ({"gpt": OPEN | {"api_version": "v1"}}, "api_version goes with azure_endpoint"),
        ({"gpt": {"azure_endpoint": "https://x"}}, "api_version goes with azure_endpoint"),
        ({"gpt": {k: AZURE[k] for k in list(AZURE)[:2]}}, "needs api_key or api_key_env"),
        ({"gpt": AZURE | {"api_key": ""}}, "'gpt'.api_key: expected a text that is not empty"),
        ({"gpt": AZURE | {"api_key": 5}}, "'gpt'.api_key: expected a text that is not empty"),
        ({"gpt": AZURE | {"api_key": KEY + "\u00e9"}}, "what no header can carry"),
        ({"gpt": AZURE | {"api_key_env": KEY}}, "one of api_key and api_key_env"),
        ({"gpt": OPEN | {"api_key_env": KEY}}, "the environment variable that it names is not"),
        ({"gpt": {"base_url": KEY}}, "expected a URL"),
        ("[" * 100_000, "is no JSON text"),
    ],
)
def test_what_is_wrong_is_said_without_quoting_the_file(tmp_path, listed, message: str) -> None:
    file = written(tmp_path, listed)
    with pytest.raises(AddressError) as raised:
        read_addresses(file, "gpt")
    assert file in str(raised.value) and message in str(raised.value)
    assert KEY not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="No such file"):
        read_addresses(str(tmp_path / "none.json"), "gpt")
