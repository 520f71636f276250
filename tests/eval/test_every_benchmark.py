"""Every benchmark's files through all stages at once: with a server that knows the answers, and
with engines that know nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.testing.chat_server import Reply, Request, serve
from eval.benchmarks.base import Files
from eval.prism import INCOMPLETE, main
from tests.eval.benchmark_files import EXAMPLES, IMAGES, read, write_files
from tests.eval.worlds import spoken
from tests.ranks import run_module

MEDIA = ["--media.image_min_pixels=1024", "--media.video_fps=10"]
CAPTION = "A caption that says it all."


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    return {name: write_files(tmp_path_factory.mktemp(name), name) for name in EXAMPLES}


def given(files: dict[str, Files]) -> list[str]:
    """The benchmarks' part of the command line."""
    words = []
    for name, where in files.items():
        words += ["--benchmark", name, "--data-path", *map(str, where.paths)]
        words += ["--media-root", str(where.media_root)] if where.media_root else []
        words += [f"--benchmarks.{name}.subtitles={where.subtitles}"] if where.subtitles else []
    return words


def at(url: str, *tables: str) -> list[str]:
    """Settings of models that are behind a server."""
    return [w for t in tables for w in (f"--{t}.endpoint={url}", f"--{t}.model={t}")]


def judge(request: Request) -> Reply:
    """Full marks, whatever is asked."""
    return Reply("3" if "grade" in request["messages"][0]["content"] else "1")


def summaries(out: Path) -> dict[str, dict]:
    return json.loads((out / "summary.json").read_text())["benchmarks"]


def test_right_answers_get_full_marks(files: dict[str, Files], tmp_path: Path) -> None:
    right: dict[str, str] = {}
    asked_twice = set()  # in two formats of one file, with two answers
    for name in EXAMPLES:
        for item, example in zip(read(name, files[name])[0], EXAMPLES[name], strict=True):
            asked_twice |= {item.question} & set(right)
            right[item.question] = example.right

    def know(request: Request) -> Reply:
        text, media = spoken(request["messages"])
        if media:
            return Reply(CAPTION)
        assert CAPTION in text
        found = [question for question in right if question in text]
        return Reply(right[max(found, key=len)])

    with serve(know) as server, serve(judge) as judges:
        words = [*given(files), "--out", str(tmp_path / "run"), "--run.progress=false", *MEDIA]
        words += at(server.url, "captioner", "reader") + at(judges.url, "judge")
        assert main([*words, "--captioner.n=1"]) == 0
    found = summaries(tmp_path / "run")
    assert set(found) == set(EXAMPLES)
    for record in map(json.loads, (tmp_path / "run" / "items.jsonl").read_text().splitlines()):
        if record["question"] not in asked_twice:
            most = 3.0 if record["benchmark"] == "mmbench_video" else 1.0
            assert record["mean"] == pytest.approx(most), record["id"]
    assert found["timelens"]["metrics"]["R1@0.7"] == 100.0
    assert found["mmbench_video"]["metrics"]["Overall_all"] == 3.0


def test_engines_caption_and_read_them_all(
    files: dict[str, Files], tiny_policy: Path, tiny_reader: Path, tmp_path: Path
) -> None:
    """Clips, folders of frames, several images: real media through a real engine."""
    sizes = ["max_model_len=1024", "max_num_seqs=16", "kv_cache_gib=0.05", "max_tokens=8"]
    engines = [f"--{table}.{setting}" for table in ("captioner", "reader") for setting in sizes]
    engines += [f"--captioner.path={tiny_policy}", f"--reader.path={tiny_reader}"]
    with serve(lambda request: Reply("Well, that depends.")) as judges:
        words = [*given(files), "--out", str(tmp_path / "run"), "--run.progress=false", *MEDIA]
        words += ["--captioner.n=2", *engines, *at(judges.url, "judge")]
        code, output = run_module("eval.prism", 1, *words, timeout=400)
    assert code == INCOMPLETE, output[-6000:]  # judges that answer prose: no verdict
    for name, part in summaries(tmp_path / "run").items():
        missing = part["missing"]
        assert not any(missing[k] for k in ("rows", "media", "captions", "answers")), name
        judged = sum(example.judged for example in EXAMPLES[name])
        assert missing["judgements"] <= 2 * judged
        assert part["scored"] >= part["items"] - judged
        assert 0 < part["caption_tokens"] <= 8
    record = json.loads((tmp_path / "run" / "items.jsonl").read_text().splitlines()[0])
    assert record["media"][0]["picture"]


def test_what_is_too_long_for_an_engine_is_missing(
    files: dict[str, Files], tiny_policy: Path, tiny_reader: Path, tmp_path: Path
) -> None:
    """It is counted, with the reason, and the other items are none the worse for it."""
    words = [*given({"mmstar": files["mmstar"]}), "--out", str(tmp_path / "run"), *MEDIA]
    words += ["--captioner.n=1", "--captioner.max_tokens=8", "--run.progress=false"]
    words += [f"--captioner.path={tiny_policy}", f"--reader.path={tiny_reader}"]
    words += ["--captioner.max_model_len=1024", "--captioner.kv_cache_gib=0.05"]
    short = ["--reader.max_model_len=64", "--reader.max_tokens=8", "--reader.kv_cache_gib=0.05"]
    code, output = run_module("eval.prism", 1, *words, *short, timeout=300)
    assert code == INCOMPLETE, output[-6000:]
    part = summaries(tmp_path / "run")["mmstar"]
    assert part["missing"]["answers"] > 0 and part["missing"]["captions"] == 0
    record = json.loads((tmp_path / "run" / "items.jsonl").read_text().splitlines()[0])
    assert record["captions"][0]["answer"]["missing"].startswith("prompt: ")


def test_the_references_rule(files: dict[str, Files], tmp_path: Path) -> None:
    """Boxed answers, which the reference wants, are right by its rule, too."""
    images = {name: files[name] for name in IMAGES}
    reply = "<think>It says so.</think><answer>\\boxed{42}</answer>"
    with serve(lambda r: Reply(CAPTION if spoken(r["messages"])[1] else reply)) as server:
        words = [*given(images), "--out", str(tmp_path / "run"), "--rule", "caprl", *MEDIA]
        words += ["--captioner.n=1", "--run.progress=false"]
        assert main([*words, *at(server.url, "captioner", "reader"), "--skip-judge"]) == 0
    lines = (tmp_path / "run" / "items.jsonl").read_text().splitlines()
    found = {r["id"]: r for r in map(json.loads, lines)}
    assert found["chartqa:1"]["mean"] == 1.0 and found["chartqa:3"]["mean"] == 0.0
