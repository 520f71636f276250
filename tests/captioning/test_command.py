"""The captioning command, against a real server that answers as it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from caprl_native.captioning.cli import long_form, main
from caprl_native.testing.chat_server import ChatServer, Reply, serve
from caprl_native.testing.media_files import truncate, write_mp4, write_png
from tests.ranks import ROOT


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    for i in range(5):
        write_png(folder / f"{i}.png")
    write_mp4(folder / "v.mp4", 6)
    return folder


def caption(request: dict[str, Any]) -> Reply:
    parts = request["messages"][-1]["content"]
    images = sum(part["type"] == "image_url" for part in parts)
    return Reply(f"{images} images, {parts[-1]['text']}")


def run(
    folder: Path, *words: str, answer: Callable[[Any], Reply] = caption, given: str = "media"
) -> tuple[int, ChatServer]:
    with serve(answer) as server:
        return code_of([*command(folder, server.url, given), *words]), server


def command(folder: Path, url: str, given: str = "media") -> list[str]:
    return [
        *("--endpoint", url, "--served-model-name", "m", "--captioner.retries=0"),
        *("--input", str(folder / given), "--output", str(folder / "out.jsonl")),
        "--run.progress=false",
    ]


def code_of(words: Sequence[str]) -> int:
    try:
        return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_of_media(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, server = run(tmp_path)
    rows = lines(tmp_path / "out.jsonl")
    assert code == 0 and [row["id"] for row in rows] == [*(f"{i}.png" for i in range(5)), "v.mp4"]
    assert rows[0]["caption"] == "1 images, Please describe this image in detail."
    assert rows[5]["caption"].endswith("images, Please describe this video in detail.")
    drawn = {request["messages"][-1]["content"][-1]["text"][21:26]: request for request in
             server.requests}  # fmt: skip
    assert drawn["image"]["temperature"] == 1.0 and drawn["video"]["temperature"] == 0.7
    assert drawn["video"]["top_p"] == 0.8
    assert not (tmp_path / "out.failed.jsonl").exists()
    code, server = run(tmp_path)
    assert code == 0 and not server.requests
    capsys.readouterr()
    assert code_of(["--status", "--output", str(tmp_path / "out.jsonl")]) == 0
    assert "6 done, 0 failed, 0 missing" in capsys.readouterr().out


def test_bad_media_are_listed_counted_and_may_be_mended(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(media / "2.png")
    (media / "x.png").write_text("no image")
    code, _ = run(tmp_path)
    assert code == 3 and len(lines(tmp_path / "out.jsonl")) == 5
    failed = lines(tmp_path / "out.failed.jsonl")
    assert [row["id"] for row in failed] == ["2.png", "x.png"]
    assert all(row["reason"].startswith("media: ") for row in failed)
    assert "2 of 7 entries have failed" in capsys.readouterr().err
    write_png(media / "2.png")
    code, server = run(tmp_path)  # its file has changed: it is asked about again by itself
    assert code == 3 and len(server.requests) == 1
    assert [row["id"] for row in lines(tmp_path / "out.failed.jsonl")] == ["x.png"]
    assert run(tmp_path, "--retry-failed")[0] == 3


def test_more_media_are_more_captions_and_the_others_stay(media: Path, tmp_path: Path) -> None:
    run(tmp_path)
    write_png(media / "00.png")
    code, server = run(tmp_path)
    assert code == 0 and len(server.requests) == 1
    assert [row["id"] for row in lines(tmp_path / "out.jsonl")][:2] == ["0.png", "00.png"]


def test_a_lost_endpoint_is_said_and_the_next_run_goes_on(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = tmp_path / "list.txt"
    many.write_text("\n".join(str(media / f"{i % 5}.png") for i in range(100)))
    asked: list[str] = []

    def lost(request: dict[str, Any]) -> Reply:
        asked.append("")
        return caption(request) if len(asked) <= 10 else Reply(status=503)

    code, _ = run(tmp_path, answer=lost, given="list.txt")
    said = capsys.readouterr().err
    assert code == 1 and "gave up: the model does not answer" in said and "503" in said
    assert not (tmp_path / "out.jsonl").exists()
    code, server = run(tmp_path, given="list.txt")
    assert code == 0 and len(server.requests) == 100 - 10


def test_other_settings_need_another_output_or_overwrite(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    assert run(tmp_path, "--seed", "1")[0] == 2
    assert "was begun with other settings (0 then, 1 now)" in capsys.readouterr().err
    code, server = run(tmp_path, "--seed", "1", "--overwrite")
    assert code == 0 and len(server.requests) == 6


def test_a_file_that_is_not_ours_is_not_written_over(media: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    assert run(tmp_path)[0] == 2 and (tmp_path / "out.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "x.jsonl"], "input.files: nothing to caption"),
        (["--input", "a.png"], "output.file: give --output"),
        (["--input", "a.png", "--output", "x"], "captioner.path: no model"),
        (["--input", "a.png", "--output", "x", "--shard", "3/2"], "expected k/m"),
        (["--input", "a.png", "--output", "x", "--shard", "a"], "input.shard"),
        (["--input"], "--input: expected a value"),
        (["--input", "a.png", "--output", ".", "--model", "m"], "is a folder"),
        (["--status"], "give the job's --output"),
        (["--status", "--output", "nowhere.jsonl"], "no job has been begun there"),
        (["--input", "a.png", "--output", "x", "--model", "m", "--n", "0"], "captioner.n"),
        (["--input", "a.png", "--output", "x", "--modle", "m"], "modle: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_told(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(words) == 2 and said in capsys.readouterr().err


def test_inputs_that_are_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path)[0] == 2 and "there is no such file or folder" in capsys.readouterr().err


def test_a_dry_run_shows_the_settings_and_no_keys(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(tmp_path, "http://user:secret-word@127.0.0.1:1/v1")
    assert code_of([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "secret-word" not in shown and "video_temperature = 0.7" in shown


def test_partial_results_can_be_had(media: Path, tmp_path: Path) -> None:
    def busy(request: dict[str, Any]) -> Reply:
        return (
            Reply(status=429)
            if "video" in request["messages"][-1]["content"][-1]["text"]
            else (caption(request))
        )

    code, _ = run(tmp_path, "--run.chunk=2", answer=busy)
    assert code == 3 and not (tmp_path / "out.jsonl").exists()
    assert run(tmp_path, "--partial")[0] == 0
    assert [row["id"] for row in lines(tmp_path / "out.jsonl")] == [f"{i}.png" for i in range(4)]


def test_a_list_comes_on_standard_input(media: Path, tmp_path: Path) -> None:
    with serve(caption) as server:
        done = subprocess.run(
            [sys.executable, "tools/caption.py", *command(tmp_path, server.url)[:5]]
            + ["--input", "-", "--output", str(tmp_path / "o.json"), "--format", "llava"],
            input="\n".join(str(media / f"{i}.png") for i in range(3)),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "o.json").read_text())) == 3


def test_a_degenerate_caption_is_tried_again(media: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def answer(request: dict[str, Any]) -> Reply:
        seen.append(request["seed"])
        return Reply("so on, " * 50) if len(seen) == 1 else Reply("A square.")

    assert run(tmp_path, "--retry-degenerate=1", answer=answer, given="media/0.png")[0] == 0
    (row,) = lines(tmp_path / "out.jsonl")
    assert row["caption"] == "A square." and row["seed"] == seen[1] != seen[0]


def test_inputs_on_the_command_line_are_one_list() -> None:
    words, instead = long_form(["--input", "a", "b", "--limit=3", "--input=c", "--status"])
    assert words == ["--input.limit", "3", "--input.files", '["a", "b", "c"]']
    assert instead == {"--status"}


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
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, output, log = tmp_path / "list.txt", tmp_path / "out.jsonl", tmp_path / "log"
    rows = [json.dumps({"id": f"e{i}", "image": f"media/{i % 3}.png"}) for i in range(60)]
    listed.write_text("\n".join(rows))

    def slow(request: dict[str, Any]) -> Reply:
        return Reply(caption(request).text, after_s=0.05)

    with serve(slow) as server:
        more = ["--captioner.concurrency=2", "--run.chunk=8"]
        words = [*command(tmp_path, server.url, "list.txt"), *more]
        begun: Callable[[ChatServer, int], bool] = lambda s, n: len(s.requests) >= n  # noqa: E731
        with started(words, log) as process:
            wait_for(lambda: begun(server, 15), process, log)
            process.kill()
        asked = len(server.requests)
        assert main(["--status", "--output", str(output)]) == 0
        assert "it was killed; run it again" in capsys.readouterr().out
        with started(words, log) as process:
            wait_for(lambda: begun(server, asked + 15), process, log)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130, log.read_text()
        assert "results are kept" in log.read_text() and not output.exists()
        assert main([*words, "--partial"]) == 0 and 16 <= len(lines(output)) < 60
        assert main(words) == 0
        assert len(server.requests) <= 60 + 2 + 2  # what was in flight at the kill
    assert [row["id"] for row in lines(output)] == [f"e{i}" for i in range(60)]
    assert {row["caption"] for row in lines(output)} == {lines(output)[0]["caption"]}
