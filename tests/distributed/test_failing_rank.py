"""One rank fails: one message, and every process of the run ends within seconds, by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from caprl_native.distributed import errors
from tests.ranks import ROOT

sys.path.insert(0, str(ROOT / "tools"))

from launch import free_port  # noqa: E402


def start(rank: int, port: int, *args: object) -> subprocess.Popen[str]:
    """A rank without a launcher, which would kill the others when one fails."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": ROOT}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.programs.failing", *map(str, args)],
        cwd=ROOT,
        env={**os.environ, **{k: str(v) for k, v in place.items()}},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("how", "failing"),
    [("collective", 1), ("stuck", 1), ("stuck", 0)],  # rank 0 takes the store with it
)
def test_all_ranks_end_with_one_message(how: str, failing: int, tmp_path: Path) -> None:
    port = free_port()
    ranks = [start(rank, port, how, failing, tmp_path) for rank in range(2)]
    try:
        until = time.monotonic() + 120
        while not (tmp_path / f"flushed_{failing}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        began = time.monotonic()
        said = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert time.monotonic() - began < 10  # though the failing rank's log is never closed
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "".join(said).count("the disk is full") == 1, said
    assert "error: the disk is full" in said[failing]
    assert "Traceback" not in said[0] + said[1]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["flushed_0", "flushed_1"]


def test_what_does_not_return_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    assert errors.within(0.2, threading.Event().wait) is None
    assert time.monotonic() - began < 5
    assert errors.within(60, lambda: 7) == 7
    assert errors.within(60, lambda: [][0]) is None
    assert "list index out of range" in caplog.text
