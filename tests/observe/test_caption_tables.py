"""Captions and pictures in the backends, as these keep them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from caprl_native.config.schema import LogConfig
from caprl_native.observe.backends import close_backend, open_backends
from caprl_native.observe.tables import COLUMNS, log_table, table_rows
from caprl_native.testing.made_runs import MadeRun
from tests.viewer.test_viewer_run import rows


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    run = MadeRun(tmp_path / "runs/made", groups=3, n=2)
    run.step(1, captions=["a | b\n<b>c</b> `d`"])
    return rows(run.folder / "rollouts/step_000001.jsonl")


def logged(folder: Path, records: list[dict[str, Any]], **settings: Any) -> None:
    (backend,) = open_backends(LogConfig(**settings), "made", folder, "")
    log_table(backend, table_rows(records, 2), 7)
    close_backend(backend, failed=False)


def test_tensorboard_has_a_text_and_a_picture_of_each_group(tmp_path, records) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged(tmp_path, records, backends=["tensorboard"])
    (file,) = (tmp_path / "tensorboard").rglob("events*")
    found = EventAccumulator(str(file)).Reload()
    texts = [f"captions/{i}/text_summary" for i in (0, 1)]
    assert found.Tags()["tensors"] == texts
    assert found.Tags()["images"] == ["captions/0", "captions/1"]
    (text,) = found.Tensors(texts[0])
    said = text.tensor_proto.string_val[0].decode()
    assert "a &#124; b &lt;b&gt;c&lt;/b&gt; &#96;d&#96; |" in said and text.step == 7
    assert len(said.splitlines()) == 2 + 2 + 2


def test_wandb_has_a_table_with_pictures(tmp_path, records, monkeypatch) -> None:
    """The lines are in a file of the run's folder, the pictures in the table's artifact."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    logged(tmp_path, records, backends=["wandb"], wandb="offline")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/captions*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == list(COLUMNS)
    assert [line[3] for line in table["data"]] == [r["caption"] for r in records[:4]]
    (journal,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert len(set(re.findall(rb"media/images/\w+\.png", journal.read_bytes()))) == 2


def test_media_that_cannot_be_opened_have_no_picture(records) -> None:
    for record in records:
        record["media"] = ["/no/such/file.png"]
    assert [row.picture for row in table_rows(records, 1)] == [None, None]
