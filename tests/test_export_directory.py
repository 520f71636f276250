"""A directory that is written of weights says what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from caprl_native.export import write_hf


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_config_states_one_precision(tiny_policy: Path, tmp_path: Path, dtype: str) -> None:
    source = shutil.copytree(tiny_policy, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["dtype"] = config["dtype"] = "float16"
    (source / "config.json").write_text(json.dumps(config))
    kind = getattr(torch, dtype)
    weights = {n: t.to(kind) for n, t in load_file(source / "model.safetensors").items()}
    names = set(weights)
    write_hf(tmp_path / "out", weights, source, dtype)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    tables = [written, written["text_config"], written["vision_config"]]
    assert {table.get("dtype", dtype) for table in tables} == {dtype}
    assert written["dtype"] == written["text_config"]["dtype"] == dtype
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == names
