"""One rank fails: one message, and every process of the run ends within seconds, by itself."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from caprl_native.distributed import errors
from tests.ranks import ROOT, Forked

sys.path.insert(0, str(ROOT / "tools"))

from launch import free_port  # noqa: E402


def start(rank: int, port: int, log: Path, *args: object) -> Forked:
    """A rank without a launcher, which would kill the others when one fails."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    env = {name: str(value) for name, value in place.items()}
    return Forked("tests.programs.failing", 0, *args, log=log, env=env)


@pytest.mark.parametrize(
    ("how", "failing"),
    [("collective", 1), ("stuck", 1), ("stuck", 0)],  # rank 0 takes the store with it
)
def test_all_ranks_end_with_one_message(how: str, failing: int, tmp_path: Path) -> None:
    port, logs = free_port(), [tmp_path / f"log_{rank}" for rank in range(2)]
    (tmp_path / "run").mkdir()
    ranks = [start(i, port, log, how, failing, tmp_path / "run") for i, log in enumerate(logs)]
    try:
        until = time.monotonic() + 120
        while not (tmp_path / f"run/flushed_{failing}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        began = time.monotonic()
        codes = [rank.wait(60) for rank in ranks]
    finally:
        for rank in ranks:
            rank.end()
    assert time.monotonic() - began < 10  # though the failing rank's log is never closed
    said = [log.read_text() for log in logs]
    assert codes == [1, 1]
    assert "".join(said).count("the disk is full") == 1, said
    assert "error: the disk is full" in said[failing]
    assert "Traceback" not in said[0] + said[1]
    names = [f.name for f in (tmp_path / "run").iterdir()]
    assert sorted(names) == ["flushed_0", "flushed_1"]


def test_what_does_not_return_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    assert errors.within(0.2, threading.Event().wait) is None
    assert time.monotonic() - began < 5
    assert errors.within(60, lambda: 7) == 7
    assert errors.within(60, lambda: [][0]) is None
    assert "list index out of range" in caplog.text
