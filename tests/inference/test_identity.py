"""A setting that changes what a model writes is part of what its replies are found by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caprl_native.captioning.config import CaptionConfig
from caprl_native.captioning.task import CaptionTask
from caprl_native.config.models import CaptionerConfig
from caprl_native.curation.answer import Answer
from caprl_native.curation.config import CurationConfig
from caprl_native.curation.generate import Write
from eval.config import PrismConfig
from eval.plan import Answers, Captions

ENDPOINT = {"endpoint": "http://127.0.0.1:1/v1", "model": "m"}
# How a model is run, and what is part of each request's own key.
NO_PART = {
    *("path", "endpoint", "api_key_env", "concurrency", "timeout_s", "retries", "max_num_seqs"),
    *("gpu_memory_utilization", "kv_cache_gib", "enforce_eager", "workers"),
    *("n", "image_prompt", "video_prompt", "questions", "choices"),
}
IN_PROCESS = {"top_k", "max_model_len", "dtype"}
SERVED = {"model", "revision", "prefill", "video_as"}
OTHERS: dict[str, Any] = {"dtype": "float32", "video_as": "file", "none_of_the_above": "neither"}


def _captioning(given: dict[str, Any]) -> Any:
    return CaptionTask(CaptionConfig.model_validate({"captioner": given})).identity


def _captions(given: dict[str, Any]) -> Any:
    return Captions(PrismConfig.model_validate({"captioner": given})).settings


def _answers(given: dict[str, Any]) -> Any:
    return Answers(PrismConfig.model_validate({"reader": given}))._settings


def _writer(given: dict[str, Any]) -> Any:
    config = CurationConfig.model_validate({"writer": given})
    return Write(config.writer, config.media, 0).identity


def _solver(given: dict[str, Any]) -> Any:
    config = CurationConfig.model_validate({"solver": given})
    return Answer(config.solver, config.media, 0).identity


KINDS: dict[str, tuple[Callable[[dict[str, Any]], Any], type]] = {
    "captioning": (_captioning, CaptionConfig().captioner.__class__),
    "captions": (_captions, CaptionerConfig),
    "answers": (_answers, PrismConfig().reader.__class__),
    "writer": (_writer, CurationConfig().writer.__class__),
    "solver": (_solver, CurationConfig().solver.__class__),
}


@pytest.mark.parametrize("in_process", [True, False], ids=["engine", "endpoint"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_replies_changes_their_identity(
    kind: str, in_process: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    given: dict[str, Any] = {"path": str(tmp_path)} if in_process else dict(ENDPOINT)
    identity, table = KINDS[kind]
    before, changed = identity(given), set()
    for name, field in table.model_fields.items():
        if name not in NO_PART | (SERVED if in_process else IN_PROCESS):
            assert identity({**given, name: _another(name, field.default)}) != before, name
            changed.add(name)
    assert {"temperature", "top_p", "max_tokens"} <= changed


def _another(name: str, value: Any) -> Any:
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value / 2 if isinstance(value, float) and value else value + 1
