"""Captioning jobs as processes: with a real engine, and killed and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from caprl_native.captioning.cli import main
from caprl_native.testing.chat_server import Reply, serve
from caprl_native.testing.media_files import truncate, write_mp4, write_noise, write_png
from tests.ranks import ROOT

TINY = ["--captioner.dtype=float32", "--captioner.kv_cache_gib=0.5", "--run.progress=false"]
TINY += ["--captioner.max_model_len=512", "--max-tokens=24", "--media.video_max_frames=4"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def captioned(media: Path, output: Path, *more: str) -> int:
    """The exit code of the demo's captioner on this folder."""
    words = ["--model", f"{ROOT}/demo_models/policy", "--input", str(media)]
    command = [sys.executable, "tools/caption.py", *words, "--output", str(output), *TINY, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return done.returncode


def test_an_engine_captions_pictures_and_videos_alike_in_shards(tmp_path: Path) -> None:
    media = tmp_path / "media"
    for i in range(6):
        write_noise(media / f"{i}.png", (64, 64), seed=i)
    write_mp4(media / "v.mp4", 8)
    write_png(media / "x.png")
    truncate(media / "x.png")
    assert captioned(media, tmp_path / "all.jsonl", "--n=2") == 3
    rows = lines(tmp_path / "all.jsonl")
    assert [row["id"] for row in rows] == [*(f"{i}.png" for i in range(6)), "v.mp4"]
    for row in rows:
        assert len(row["captions"]) == 2 and all(row["captions"]) and min(row["tokens"]) > 0
    (failure,) = lines(tmp_path / "all.failed.jsonl")
    assert failure["id"] == "x.png" and failure["reason"].startswith("media: ")
    captioned(media, tmp_path / "part.jsonl", "--n=2", "--shard=0/2")
    part = lines(tmp_path / "part.jsonl")
    assert 0 < len(part) < len(rows) and all(row in rows for row in part)


@contextmanager
def started(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "tools/caption.py", *words],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < ends, log.read_text()
        time.sleep(0.02)


def test_a_job_that_is_killed_goes_on_and_one_that_is_interrupted_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, output, log = tmp_path / "list.txt", tmp_path / "o.jsonl", tmp_path / "log"
    rows = [json.dumps({"id": f"e{i}", "image": f"media/{i % 3}.png"}) for i in range(60)]
    listed.write_text("\n".join(rows))
    for i, color in enumerate(["red", "green", "blue"]):
        write_png(tmp_path / f"media/{i}.png", color=color)

    def slow(request: dict[str, Any]) -> Reply:
        return Reply(f"caption {request['seed']}", after_s=0.05)

    with serve(slow) as server:
        more = ["--input", str(listed), "--captioner.concurrency=2", "--run.chunk=8"]
        words = [f"--endpoint={server.url}", "--served-model-name=m", f"--output={output}"]
        words += ["--run.progress=false", *more]
        with started(words, log) as process:
            wait_for(lambda: len(server.requests) >= 15, process, log)
            process.kill()
        asked = len(server.requests)
        assert main(["--status", "--output", str(output)]) == 0
        assert "it was killed; run it again" in capsys.readouterr().out
        with started(words, log) as process:
            wait_for(lambda: len(server.requests) >= asked + 15, process, log)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130, log.read_text()
        assert "results are kept" in log.read_text() and not output.exists()
        assert main([*words, "--partial"]) == 0 and 16 <= len(lines(output)) < 60
        assert main(words) == 0
        assert len(server.requests) <= 60 + 2 + 2  # what was in flight at the kill
    assert [row["id"] for row in lines(output)] == [f"e{i}" for i in range(60)]
    assert all(row["caption"] == f"caption {row['seed']}" for row in lines(output))
