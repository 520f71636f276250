"""The least that a training config needs, and a folder to write configs into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MINIMAL = """\
[data]
files = ["train.jsonl"]
[policy]
path = "model"
[reward.reader]
path = "reader"
[eval]
every = 0
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a file into the current folder, a fresh one."""
    monkeypatch.chdir(tmp_path)

    def _write(data: bytes | str, name: str = "a.toml") -> str:
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return name

    return _write
