"""Curation from end to end on the demo's world: a real engine answers, and the output trains."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

from caprl_native.curation import rule
from caprl_native.curation.config import FilterConfig
from caprl_native.curation.curate_cli import main
from caprl_native.testing.chat_server import Reply, serve
from tests.curation.test_curate import Solver, written
from tests.train.world import rows, tiny_config, train_ok


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def media_settings(config) -> list[str]:
    return [f"--media.{k}={json.dumps(v)}" for k, v in config.media.model_dump().items()]


def test_an_engine_answers_every_round_of_images_and_videos(
    world: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    config = tiny_config(world, tiny_policy, "", tmp_path / "run")
    out = tmp_path / "out"
    with serve(lambda request: Reply(text=written())) as writes:
        words = [f"--input.files=['{world / 'train.jsonl'}']", f"--out={out}", "--limit=6"]
        words += [f"--writer.endpoint={writes.url}", "--writer.model=w", "--run.progress=false"]
        words += [f"--solver.path={tiny_policy}", "--solver.dtype=float32", "--solver.rounds=2"]
        words += ["--solver.max_model_len=1024", "--solver.kv_cache_gib=0.05"]
        words += ["--filter.visual_above=0", "--filter.text_below=2", *media_settings(config)]
        assert main(words) == 0
        first = (out / "answers.jsonl").read_bytes()
        assert main([*words, "--overwrite"]) == 0
    assert (out / "answers.jsonl").read_bytes() == first  # drawn with seeds of their own
    answered = lines(out / "answers.jsonl")
    asked = [q for line in answered for q in line["questions"]]
    assert len(answered) == 6 and all(len(q["rounds"]) == 4 for q in asked)
    assert {m["kind"] for line in answered for m in line["media"]} == {"image", "video"}
    limits = FilterConfig(visual_above=0, text_below=2)
    verdicts = [rule.verdict(q["question"], [rule.shares(q["rounds"])], limits) for q in asked]
    figures = json.loads((out / "report.json").read_text())
    assert figures["verdicts"].get(rule.KEPT, 0) == verdicts.count(rule.KEPT)
    assert Fraction(sum(figures["visual_accuracy"]), len(asked)) == 1


def test_the_output_trains(
    world: Path, tiny_policy: Path, tiny_reader: Path, tmp_path: Path
) -> None:
    config = tiny_config(world, tiny_policy, tiny_reader, tmp_path / "run")
    out = tmp_path / "out"
    with serve(lambda request: Reply(text=written())) as writes, serve(Solver()) as solves:
        words = [f"--input.files=['{world / 'image'}']", f"--out={out}", "--limit=8"]
        words += [f"--writer.endpoint={writes.url}", "--writer.model=w", "--run.progress=false"]
        words += [f"--solver.endpoint={solves.url}", "--solver.model=s", "--solver.concurrency=1"]
        assert main([*words, *media_settings(config)]) == 0
    config.data.files = [str(out / "train-*.parquet")]
    config.data.batch_size, config.run.steps, config.run.epochs = 4, 5, 5
    config.run.save_every, config.run.export = 0, False
    folder = train_ok(config, tmp_path / "run.toml", ranks=1)
    assert [line["step"] for line in rows(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5]
