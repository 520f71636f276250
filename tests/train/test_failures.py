"""What goes wrong in a run is skipped and counted, or ends it with one message that explains it."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
from kill_resume import ended, final_state, steps_logged, wait_for

from caprl_native import checkpoint
from caprl_native.config.schema import Config
from caprl_native.testing.chat_server import Reply, Request, serve
from caprl_native.testing.media_files import truncate
from caprl_native.train import main
from tests.train.world import (
    Launched,
    Quick,
    rows,
    tiny_config,
    train,
    write_config,
    write_rows,
)

PASSWORD = "hunter2-pass"


def said(output: str) -> str:
    """The one message of a run that failed, without a traceback of ours."""
    assert "in train\n" not in output and "caprl_native/trainer.py" not in output, output[-6000:]
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, output[-6000:]
    return lines[0]


# --- data -------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(world: Path, tiny_policy: Path, tiny_reader: Path, tmp_path: Path) -> Config:
    """Eight records of which three cannot be used: every epoch is one batch of all of them."""
    shutil.copytree(world, tmp_path / "world")
    records = rows(world / "train.jsonl")
    images = [r for r in records if "image" in r][:5]
    videos = [r for r in records if "video" in r][:3]
    (tmp_path / "world" / images[0]["image"]).write_bytes(b"\x89PNG\r\n\x1a\n but nothing else")
    truncate(tmp_path / "world" / videos[0]["video"], 0.5)
    (tmp_path / "world" / images[1]["image"]).unlink()
    write_rows(tmp_path / "world/train.jsonl", images + videos)
    config = tiny_config(tmp_path / "world", tiny_policy, tiny_reader, tmp_path / "run")
    config.run.save_every, config.run.export = 0, False
    return config


def bad_files(config: Config) -> list[str]:
    records = rows(Path(config.data.files[0]))
    return [records[0]["image"], records[1]["image"], records[5]["video"]]


def test_files_that_cannot_be_used_are_skipped(spoilt: Config, tmp_path: Path) -> None:
    spoilt.data.max_skipped_share = 0.5
    data = Path(spoilt.data.files[0])
    records = rows(data)
    records[4]["prompt"] = "<image>Describe <|image_pad|> it."  # a mark of the model's own
    write_rows(data, records)
    held_out_misses_an_image(spoilt)
    code, output = train(write_config(spoilt, tmp_path / "run.toml"))
    assert code == 0, output[-6000:]
    folder = Path(spoilt.run.dir)
    metrics = rows(folder / "metrics.jsonl")
    assert [m["data/skipped"] for m in metrics if "data/skipped" in m] == [4, 4]
    assert [m["eval/data/skipped"] for m in metrics if "eval/time_s" in m] == [1, 1]
    assert f"({data}:5): the prompt contains <|image_pad|>, a mark of the model's own" in output
    assert output.count("gone.png: No such file") == 1
    for name in bad_files(spoilt):
        lines = [line for line in output.splitlines() if "skipped" in line and name in line]
        assert 1 <= len(lines) <= 2  # once on each rank that met it
        assert len(lines[0].split(name)[1]) > 5  # the reason follows
    for step in (1, 2):
        logged = rows(folder / f"rollouts/step_{step:06d}.jsonl")
        assert len(logged) == 4 * 4
        assert all(r["prompt"].startswith(("<image>", "<video>")) for r in logged)
        assert not any(name in r["media"][0] for r in logged for name in bad_files(spoilt))


def held_out_misses_an_image(config: Config) -> None:
    """Evaluation before the first step and after the last, with three of four samples."""
    file = Path(config.data.files[0]).with_name("heldout.jsonl")
    records = rows(file)
    next(r for r in records if "image" in r)["image"] = "gone.png"
    write_rows(file, records)
    config.data.eval_files, config.eval.every = [str(file)], 2


def test_too_many_of_them_end_the_run(spoilt: Config, tmp_path: Path) -> None:
    code, output = train(write_config(spoilt, tmp_path / "run.toml"), ranks=1)
    assert code == 1
    assert "3 of 8 samples could not be used, more than the share of 0.05" in said(output)
    assert not (Path(spoilt.run.dir) / "metrics.jsonl").exists()


def test_wrong_records_are_named_with_line_and_field(spoilt: Config, tmp_path: Path) -> None:
    file = Path(spoilt.data.files[0])
    records = rows(file)
    records[2]["questions"][1]["answer"] = "Q"
    records[3]["questions"] = []
    write_rows(file, records)
    with file.open("a") as lines:
        lines.write('{"image": "x.png", "prompt": \n')
    code, output = train(write_config(spoilt, tmp_path / "run.toml"))
    assert code == 1
    assert said(output) == "error: 3 problem(s) in the data files:"
    for line, field, problem in (
        (3, "questions[1].answer", "'Q'"),
        (4, "questions", ""),
        (9, "record", "malformed JSON"),
    ):
        (found,) = [text for text in output.splitlines() if f"{file}: line {line}:" in text]
        assert field in found and problem in found


# --- settings ---------------------------------------------------------------------------------


def test_an_unknown_key_ends_the_program_with_2(world: Path, tmp_path: Path) -> None:
    config = tiny_config(world, tmp_path, tmp_path, tmp_path / "run")
    file = write_config(config, tmp_path / "run.toml")
    text = file.read_text().replace("max_grad_norm", "max_grad_norn")
    file.write_text(text)
    line = 1 + next(i for i, t in enumerate(text.splitlines()) if t.startswith("max_grad_norn"))
    code, output = train(file, ranks=1)
    assert code == 2
    message = said(output)
    assert f"{file}:{line}" in message
    assert "policy.max_grad_norn" in message and "policy.max_grad_norm" in message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["--policy.path=/nowhere"], "policy.path: expected a model directory"),
        (["--reward.reader.path=/nowhere"], "reward.reader.path: expected a model directory"),
        (["--reward.reader.api_key_env=CAPRL_NO_SUCH_KEY"], "CAPRL_NO_SUCH_KEY"),
        (["--data.batch_size=x"], "data.batch_size"),
    ],
)
def test_settings_that_cannot_work_here_end_the_program_with_2(
    settings: list[str],
    expected: str,
    world: Path,
    tiny_policy: Path,
    tiny_reader: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_config(world, tiny_policy, tiny_reader, tmp_path / "run")
    file = write_config(config, tmp_path / "run.toml")
    with pytest.raises(SystemExit) as exit:
        main(["--config", str(file), *settings])
    assert exit.value.code == 2
    assert expected in said(capsys.readouterr().err)


def test_a_checkpoint_that_is_not_there(spoilt: Config, tmp_path: Path) -> None:
    code, output = train(write_config(spoilt, tmp_path / "run.toml"), "--resume", "7", ranks=1)
    assert code == 1
    assert "run.resume = '7': no such checkpoint" in said(output)


# --- a reader that stops answering ------------------------------------------------------------


class Mood:
    """How the reader's server answers, until the run has come to the next step."""

    def __init__(self, *stages) -> None:
        self.stages, self.stage = stages, 0

    def __call__(self, request: Request) -> Reply:
        return self.stages[self.stage](request)


def well(request: Request) -> Reply:
    return Reply(" A" if request["seed"] % 3 else " B")


def half_dead(request: Request) -> Reply:
    return Reply(status=500) if request["seed"] % 2 else well(request)


def dead(request: Request) -> Reply:
    return Reply(status=503)


def endpoint_config(world: Path, policy: Path, url: str, folder: Path) -> Config:
    config = tiny_config(world, policy, url, folder)
    config.run.steps, config.run.export = 5, False
    config.reward.terms["accuracy"].draws = 1
    config.reward.reader.retries, config.reward.reader.timeout_s = 1, 20.0
    return config


def follow(process, folder: Path, mood: Mood) -> str:
    """Moves to the next stage with every step of the run; returns its output at the end."""
    for step in range(1, len(mood.stages)):
        assert wait_for(lambda step=step: steps_logged(folder) >= step, process)
        mood.stage = step
    process.wait(300)
    return folder.with_suffix(".log").read_text()


def test_a_reader_that_dies_costs_no_caption_a_zero(
    world: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    folder, mood = tmp_path / "run", Mood(well, half_dead, dead)
    old = checkpoint.directory(folder / "checkpoints", 99)  # of an earlier run in the same folder
    old.mkdir(parents=True)
    (old / "state.json").write_text("{}")
    with serve(mood) as server:
        url = server.url.replace("http://", f"http://me:{PASSWORD}@")
        config = endpoint_config(world, tiny_policy, url, folder)
        file = write_config(config, tmp_path / "run.toml")
        process = Quick((str(file),)).start(folder)
        with ended(process):
            output = follow(process, folder, mood)
    assert process.returncode != 0
    message = said(output)
    assert all(h["authorization"].startswith("Basic ") for h in server.headers)
    assert PASSWORD not in output
    for file in (f for f in folder.rglob("*") if f.is_file()):
        assert PASSWORD.encode() not in file.read_bytes(), file
    assert "step 3: no group has two rewards" in message and "503" in message
    first, second = rows(folder / "metrics.jsonl")
    assert first["data/failed_rewards"] == 0
    check_half_dead(folder, second)
    tried = [r["seed"] for r in server.requests]
    assert {tried.count(seed) for seed in tried} == {1, 2}  # what failed was asked once more
    assert checkpoint.steps(folder / "checkpoints") == [1, 2]
    assert old.with_suffix(".abandoned").exists()
    assert final_state(folder)["step"] == "step_00000002"  # whole, and it loads


def check_half_dead(folder: Path, metrics: dict[str, float]) -> None:
    """Failed captions have no reward; groups with two others are trained on, the rest is not."""
    logged = rows(folder / "rollouts/step_000002.jsonl")
    failed = [r for r in logged if r["failure"]]
    assert 0 < len(failed) < 32 and metrics["data/failed_rewards"] == len(failed)
    for r in failed:
        assert r["total"] is None and r["rewards"] == {} and r["advantage"] == 0
        assert "InternalServerError" in r["failure"]
    totals = [r["total"] for r in logged if not r["failure"]]
    assert metrics["reward/total/mean"] == pytest.approx(sum(totals) / len(totals))
    left, stayed = 0, 0
    for name in {r["id"] for r in logged}:
        scored = [r for r in logged if r["id"] == name and not r["failure"]]
        assert sum(r["advantage"] for r in scored) == pytest.approx(0)
        left += len(scored) < 2
        if len({r["total"] for r in scored}) > 1:
            assert max(scored, key=lambda r: r["total"])["advantage"] > 0
            stayed += 1
    assert left and stayed


def test_a_second_interrupt_ends_a_run_that_hangs(
    world: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    with serve(lambda request: Reply(after_s=600)) as server:
        config = endpoint_config(world, tiny_policy, server.url, tmp_path / "run")
        config.reward.reader.timeout_s = 600.0
        file = write_config(config, tmp_path / "run.toml")
        process = Launched((str(file),)).start(tmp_path / "run")
        with ended(process):
            assert wait_for(lambda: len(server.requests) == 32, process)  # both ranks wait
            process.send_signal(signal.SIGINT)
            time.sleep(1.5)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            process.wait(60)
    assert time.monotonic() - began < 10
    assert process.returncode != 0
    output = (tmp_path / "run.log").read_text()
    assert output.count("interrupted: finishing the step") == 1


# --- groups without a gradient ----------------------------------------------------------------


def test_flat_groups_are_replaced_until_the_tries_are_used_up(
    world: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    mood = Mood(lambda request: Reply(" A"), lambda request: Reply(" Z"))
    with serve(mood) as server:
        config = endpoint_config(world, tiny_policy, server.url, folder)
        config.data.batch_size, config.reward.terms = (
            4,
            {"accuracy": {"questions": "own", "answers": "sampled", "draws": 2}},
        )
        config.rollout.n = 2  # half of the groups or more are flat
        config.rollout.refill, config.rollout.refill_tries = True, 6
        file = write_config(config, tmp_path / "run.toml")
        process = Quick((str(file),), ranks=1).start(folder)
        with ended(process):
            output = follow(process, folder, mood)
    assert process.returncode != 0
    assert "step 2: 0 of 4 groups carry a gradient after 6 extra batches" in said(output)
    (metrics,) = rows(folder / "metrics.jsonl")
    logged = rows(folder / "rollouts/step_000001.jsonl")
    names = {r["id"] for r in logged}
    trained = {r["id"] for r in logged if r["advantage"]}
    flat = [n for n in names if len({r["total"] for r in logged if r["id"] == n}) == 1]
    assert len(trained) == 4 < len(names)  # there was something to replace
    assert not trained & set(flat)
    assert metrics["reward/zero_std_groups"] == len(flat) > 0
