"""Servers with keys of their own, listed by model in a JSON file that stays out of the config.

    {
      "gpt-4o": {"azure_endpoint": "https://NAME.openai.azure.com", "api_version": "2024-10-21",
                 "api_key_env": "AZURE_KEY"},
      "qwen-vl": [{"base_url": "http://10.0.0.1:8000/v1"}, {"base_url": "http://10.0.0.2:8000/v1"}]
    }

No message quotes a key, nor any other value of the file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from caprl_native.files import user_path
from caprl_native.messages import shown

_FIELDS = ("base_url", "azure_endpoint", "api_version", "api_key", "api_key_env", "model")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Address:
    """Where a server is, and what it is told with every request.

    `model`: its name there, where it has another one. `api_version`: of Azure's protocol; empty:
    OpenAI's.
    """

    url: str
    key: str = field(default="", repr=False)
    model: str = ""
    api_version: str = ""


class AddressError(ValueError):
    """The file cannot be used; the message names file, model and field, and quotes no value."""


def read_addresses(file: str, model: str) -> list[Address]:
    """The servers that an endpoint file lists for a model, in its order.

    Raises:
        AddressError: the file, or what it says of this model, cannot be used here.
    """
    listed = _read(file)
    if model not in listed:
        raise AddressError(f"{file}: it lists no {shown(model)}")
    given = listed[model]
    entries = given if isinstance(given, list) else [given]
    if not entries:
        raise AddressError(f"{file}: {shown(model)}: the list is empty")
    names = [f"[{i}]" if isinstance(given, list) else "" for i in range(len(entries))]
    return [
        _address(entry, f"{file}: {shown(model)}{name}")
        for entry, name in zip(entries, names, strict=True)
    ]


def header_problem(key: str) -> str:
    """What is wrong with a key; empty where a header can carry it."""
    return "" if key.isascii() and key.isprintable() else "what no header can carry"


def _read(file: str) -> dict[str, Any]:
    try:
        with open(user_path(file), "rb") as opened:
            listed = json.loads(opened.read(_MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise AddressError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):  # its message could quote a part of a key
        raise AddressError(f"{file}: is no JSON text of up to 1 MiB") from None
    if not isinstance(listed, dict):
        raise AddressError(f"{file}: expected an object: model name to server, or list of them")
    return listed


def _address(entry: Any, where: str) -> Address:
    if not isinstance(entry, dict):
        raise AddressError(f"{where}: expected an object with {' or '.join(_FIELDS[:2])}")
    if unknown := [name for name in entry if name not in _FIELDS]:
        raise AddressError(f"{where}: {shown(unknown[0])} is none of {', '.join(_FIELDS)}")
    wrong = [n for n, v in entry.items() if not isinstance(v, str) or not v.strip()]
    if wrong:
        raise AddressError(f"{where}.{wrong[0]}: expected a text that is not empty")
    azure = "azure_endpoint" in entry
    if azure == ("base_url" in entry):
        raise AddressError(f"{where}: expected either base_url or azure_endpoint")
    if azure != ("api_version" in entry):
        raise AddressError(f"{where}: api_version goes with azure_endpoint, and with it alone")
    url = entry["azure_endpoint" if azure else "base_url"]
    if not url.startswith(("http://", "https://")):
        raise AddressError(f"{where}: expected a URL that starts with http:// or https://")
    key = _key(entry, where)
    if azure and not key:
        raise AddressError(f"{where}: an azure_endpoint needs api_key or api_key_env")
    return Address(url, key, entry.get("model", ""), entry.get("api_version", ""))


def _key(entry: dict[str, str], where: str) -> str:
    if "api_key" in entry and "api_key_env" in entry:
        raise AddressError(f"{where}: expected one of api_key and api_key_env, not both")
    name = "api_key" if "api_key" in entry else "api_key_env"
    key = entry.get("api_key", "")
    if "api_key_env" in entry:
        key = os.environ.get(entry["api_key_env"], "")
        if not key.strip():
            raise AddressError(
                f"{where}.api_key_env: the environment variable that it names is not set"
            )
    if problem := header_problem(key.strip()):
        raise AddressError(f"{where}.{name}: it holds {problem}")
    return key.strip()
