"""What ranks find on disk is what rank 0 finds, however late another node sees a shared folder."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from caprl_native.checkpoint_files import directory
from caprl_native.run_folder import _appears
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The same on both ranks."""
    folder = tmp_path_factory.mktemp("run")
    for step in (3, 4):
        saved = directory(folder / "checkpoints", step)
        saved.mkdir(parents=True)
        (saved / "state.json").write_text(f'{{"step": {step}}}')
        (saved / "manifest.json").write_text(f'{{"version": 1, "step": {step}, "files": {{}}}}')
    (saved / "manifest.json").write_text("{}")
    one, two = run_ranks("views", 2, folder, timeout=300)
    assert one == {**two, "apart": one["apart"]}  # each names its own folder
    return one


def test_rank_0_decides_which_checkpoint_is_resumed(found: dict) -> None:
    assert found["latest"] == 4
    assert "there are: [3, 4]" in found["missing"]


def test_rank_0_decides_whether_a_run_is_in_the_way(found: dict) -> None:
    assert "holds a run (2 checkpoint(s))" in found["held"]


def test_rank_0_decides_which_checkpoint_is_sound(found: dict) -> None:
    assert "manifest.json" in found["damaged"] and "--resume 3" in found["damaged"]
    assert found["damaged, no other seen"] == found["damaged"]


def test_a_manifest_has_the_files_of_all_nodes(found: dict) -> None:
    assert found["manifest"] == ["0.distcp", "1.distcp"]


def test_a_folder_that_is_not_shared_is_an_error_that_names_the_hosts(found: dict) -> None:
    host = socket.gethostname()
    assert found["apart"].startswith("RunError: run.dir: expected a folder that all nodes share")
    assert f"is not seen on {host} after" in found["apart"] and "of rank 0" in found["apart"]
    assert found["left"] == []


def test_a_file_that_comes_a_moment_later_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "late"
    threading.Timer(0.5, file.touch).start()
    assert _appears(file)
