"""tools/caption.py against a real HTTP server: what it writes, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caprl_native.captioning.cli import long_form, main
from caprl_native.config.cli import ConfigError
from caprl_native.data.records import read_records
from caprl_native.testing.chat_server import Reply, serve
from caprl_native.testing.media_files import truncate, write_mp4, write_png


def caption(request: dict[str, Any]) -> Reply:
    return Reply(f"caption {request['seed']}")


def command(url: str, output: Path, *more: str) -> list[str]:
    words = [f"--endpoint={url}", "--served-model-name", "m", "--output", str(output)]
    return [*words, "--run.progress=false", "--captioner.retries=0", *more]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    for i, color in enumerate(["red", "green", "blue"]):
        write_png(folder / f"{i}.png", color=color)
    write_mp4(folder / "v.mp4", 8)
    return folder


def test_a_folder_becomes_captions(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    with serve(caption) as server:
        words = command(server.url, output, "--input", str(media))
        assert main(words) == 0
        rows = lines(output)
        assert [row["id"] for row in rows] == ["0.png", "1.png", "2.png", "v.mp4"]
        assert [row["caption"] for row in rows] == [f"caption {row['seed']}" for row in rows]
        assert rows[0]["image"] == str(media / "0.png") and rows[3]["video"] == str(media / "v.mp4")
        asked = {r["seed"]: r for r in server.requests}
        assert {(r["temperature"], r.get("top_p", 1.0)) for r in server.requests} == {
            (1.0, 1.0),
            (0.7, 0.8),
        }
        assert asked[rows[3]["seed"]]["temperature"] == 0.7
        assert main(words) == 0 and len(server.requests) == 4  # all is there
    with serve(caption) as other:  # in a part of its own, each medium has the same caption
        for k in range(2):
            part = tmp_path / f"part{k}.jsonl"
            words = command(other.url, part, "--input", str(media), "--shard", f"{k}/2")
            assert main(words) == 0
    parts = [row for k in range(2) for row in lines(tmp_path / f"part{k}.jsonl")]
    assert sorted(parts, key=lambda row: row["id"]) == rows


@pytest.mark.parametrize("form", ["llava", "openai"])
def test_chats_can_be_trained_on(media: Path, tmp_path: Path, form: str) -> None:
    output = tmp_path / "out/train.json"
    output.parent.mkdir()
    with serve(caption) as server:
        words = command(server.url, output, "--input", str(media), "--format", form, "--n=2")
        assert main(words) == 0
    records = read_records([output], kind="response")
    assert len(records) == 8
    assert {str(m.path) for i in range(8) for m in records[i].media} == {
        str(media / name) for name in ("0.png", "1.png", "2.png", "v.mp4")
    }


def test_what_fails_is_listed_counted_and_tried_again(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(media / "1.png")
    listed = tmp_path / "list.jsonl"
    rows = ['{"image": "media/0.png", "k": 1}', '{"image": "media/1.png"}', "{", "media/2.png"]
    listed.write_text("\n".join(rows))
    output = tmp_path / "o.jsonl"
    with serve(caption) as server:
        words = command(server.url, output, "--input", str(listed))
        assert main(words) == 3
        assert "2 of 4 entries have failed" in capsys.readouterr().err
        assert [row["id"] for row in lines(output)] == ["media/0.png", "media/2.png"]
        damaged, no_json = lines(tmp_path / "o.failed.jsonl")
        assert damaged["reason"].startswith("media: ") and damaged["source"] == f"{listed}:2"
        assert no_json["reason"].startswith(f"{listed}:3: malformed JSON")
        write_png(media / "1.png")
        assert main([*words, "--retry-failed"]) == 3
        assert len(lines(output)) == 3 and len(lines(tmp_path / "o.failed.jsonl")) == 1
        listed.write_text("\n".join([*rows[:2], rows[3]]))
        assert main(words) == 0 and len(server.requests) == 3
    assert not (tmp_path / "o.failed.jsonl").exists()


def test_truncated_and_degenerate_captions_over_http(media: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def answer(request: dict[str, Any]) -> Reply:
        seen.append(request["seed"])
        return Reply("so on, " * 50) if len(seen) == 1 else Reply("cut", finish="length")

    with serve(answer) as server:
        words = ["--input", str(media / "0.png"), "--retry-degenerate=1", "--drop-truncated"]
        assert main(command(server.url, tmp_path / "o.jsonl", *words)) == 0
    (row,) = lines(tmp_path / "o.jsonl")
    assert row["degenerate"] and len(set(seen)) == 2


def test_a_server_that_is_gone_ends_the_job_with_1_or_3(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    with serve(lambda request: Reply(status=503)) as server:
        assert main(command(server.url, output, "--input", str(media))) == 3
    assert not output.exists()
    with serve(caption) as server:  # another address is another model: an error says so
        with pytest.raises(SystemExit) as error:
            main(command(server.url, output, "--input", str(media)))
        assert error.value.code == 2
        words = command(server.url, output, "--input", str(media), "--overwrite")
        assert main(words) == 0 and len(lines(output)) == 4


def test_no_output_of_anybody_else_is_overwritten(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o.jsonl"
    output.write_text("mine")
    with pytest.raises(SystemExit) as error:
        main(command("http://127.0.0.1:1/v1", output, "--input", str(media)))
    assert error.value.code == 2 and "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"


WRONG: dict[str, tuple[list[str], str]] = {
    "no input": (["--output=o.jsonl"], "input.files: nothing to caption"),
    "no output": (["--input=a.png"], "output.file: give --output"),
    "shard": (["--input=a.png", "--output=o", "--shard=2/2"], "input.shard: 2/2"),
    "form": (["--input=a.png", "--output=o", "--format=xml"], "output.format"),
    "greedy": (
        ["--input=a.png", "--output=o", "--n=2", "--captioner.temperature=0"],
        "captioner.n: greedy captions are all alike",
    ),
    "no value": (["--output"], "--output: expected a value"),
    "misspelt": (["--captioner.max_token=3"], "max_tokens"),
    "no file": (["--input=nothing*.png", "--output=o"], "nothing*.png: no file matches"),
    "no model name": (
        ["--input=a.png", "--output=o", "--captioner.model="],
        "captioner.model: an endpoint needs the name of its model",
    ),
    "no job": (["--status", "--output=o.jsonl"], "no job has been begun"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_ends_with_2(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words, expected = WRONG[name]
    with pytest.raises(SystemExit) as error:
        main(["--endpoint=http://127.0.0.1:1/v1", "--captioner.model=m", *words])
    assert error.value.code == 2 and expected in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_inputs_on_the_command_line_are_one_list() -> None:
    words, instead = long_form(["--input", "a", "b", "--limit=3", "--input=c", "--status"])
    assert words == ["--input.limit", "3", "--input.files", '["a", "b", "c"]']
    assert instead == {"--status"}
    with pytest.raises(ConfigError, match="--input: expected a value"):
        long_form(["--input", "--limit=3"])


def test_the_recipe_is_one_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", "caption.toml", "--input", "a.png", "--dry-run"]
    assert main(command("http://127.0.0.1:1/v1", Path("o.jsonl"), *words)) == 0
    assert 'video_frames = "uniform"' in capsys.readouterr().out
