"""A whole evaluation against a server that answers: stages, keys, failures, kills, results."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caprl_native.testing.chat_server import ChatServer, Reply, Request, serve
from caprl_native.testing.media_files import truncate
from eval.prism import INCOMPLETE, INTERRUPTED, main
from tests.eval.worlds import answer, spoken, write_world
from tests.ranks import ROOT

KILLS = 5  # tools/kill_eval.py does more of them, with engines
DEMO = {"captioner": "policy", "reader": "reader"}
QA = ("--benchmark", "qa", "--data-path", "x.json")
SERVED = tuple(
    f"--{table}.{key}"
    for table in ("captioner", "reader")
    for key in ("endpoint=http://127.0.0.1:9/v1", "model=x")
)
KEY = "sk-very-secret-456"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), images=6, videos=3)


def flags(world: Path, server: str, out: Path, *more: str) -> list[str]:
    """The command line of an evaluation whose models are all at one server."""
    models = [
        word
        for table in ("captioner", "reader")
        for word in (f"--{table}.endpoint={server}", f"--{table}.model={table}")
    ]
    # More at one time than the test's server has room for would be refused now and then.
    calm = [f"--{t}.{w}" for t in ("captioner", "reader") for w in ("retries=0", "concurrency=4")]
    files = ["--benchmark", "qa", "--data-path", str(world)]
    words = [*files, "--out", str(out), "--captioner.n=2", "--run.progress=false"]
    return [*words, *models, *calm, *more]


def items(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())["benchmarks"]["qa"]


def kinds(server: ChatServer) -> list[str]:
    """Of every request: "caption" or "answer"."""
    return ["caption" if spoken(r["messages"])[1] else "answer" for r in server.requests]


def test_all_stages(world: Path, tmp_path: Path) -> None:
    with serve(answer) as server:
        assert main(flags(world, server.url, tmp_path / "run", "--reference-layout")) == 0
    found, about = items(tmp_path / "run"), summary(tmp_path / "run")
    assert [r["id"] for r in found] == [f"s{i}#{j}" for i in range(9) for j in range(2)]
    assert kinds(server).count("caption") == 9 * 2  # once for both questions of a medium
    for record in found:
        scores = [c["verdict"]["score"] for c in record["captions"]]
        assert record["mean"] == sum(scores) / 2 and record["best"] == max(scores)
        said = [c["verdict"]["said"] for c in record["captions"]]
        assert [s == record["answer"] for s in said] == scores
    assert about["mean"] == pytest.approx(100 * sum(r["mean"] for r in found) / 18)
    low, high = about["mean_ci"]
    assert low <= about["mean"] <= high and about["mean"] <= about["best"]
    assert set(about["groups"]["modality"]) == {"image", "video"}
    assert about["groups"]["duration"]["0 to 1 min"]["items"] == 3 * 2
    assert all(r["chat_template_kwargs"] == {"enable_thinking": False} for r in server.requests)
    assert not any(about["missing"].values())
    table = (tmp_path / "run" / "table.md").read_text()
    assert f"| Caption QA | accuracy (%) | {about['mean']:.1f} (" in table
    details = json.loads(
        (tmp_path / "run" / "reference" / "Prism_qa_step_details_0_final.json").read_text()
    )
    sample, rewards, understood, lengths, texts = details[0]
    assert rewards == [c["verdict"]["score"] for c in found[0]["captions"]]
    assert len(texts) == 4 and texts[0] == found[0]["captions"][0]["text"]


def test_nothing_is_asked_twice_and_what_changes_is_asked_anew(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serve(answer) as server:
        run = flags(world, server.url, out)
        assert main(run) == 0
        first, asked = (out / "items.jsonl").read_bytes(), len(server.requests)
        assert main(run) == 0
        assert main([*run, "--stage", "report"]) == 0
        assert len(server.requests) == asked
        assert (out / "items.jsonl").read_bytes() == first

        assert main([*run, "--captioner.n=3"]) == 0  # one more, the others stay
        assert kinds(server)[asked:].count("caption") == 9
        assert [r["captions"][:2] for r in items(out)] == [
            json.loads(line)["captions"] for line in first.splitlines()
        ]
        asked = len(server.requests)
        assert main([*run, "--reader.max_tokens=7"]) == 0
        assert set(kinds(server)[asked:]) == {"answer"}
        asked = len(server.requests)
        assert main([*run, "--captioner.image_prompt=What is there?"]) == 0
        assert kinds(server)[asked:].count("caption") == 6 * 2
        asked = len(server.requests)
        assert main(run) == 0  # the first settings' replies are still there
        assert len(server.requests) == asked
        assert (out / "items.jsonl").read_bytes() == first


def test_files_given_one_by_one_are_all_read(tmp_path: Path) -> None:
    first = write_world(tmp_path / "a", images=1, videos=0)
    second = write_world(tmp_path / "b", images=2, videos=0)
    with serve(answer) as server:
        words = flags(first, server.url, tmp_path / "run", "--data-path", str(second))
        assert main(words) == 0
    assert len(items(tmp_path / "run")) == 2 + 4


def test_stages_alone_give_the_same(world: Path, tmp_path: Path) -> None:
    with serve(answer) as server:
        assert main(flags(world, server.url, tmp_path / "whole")) == 0
        for stage in ("caption", "answer", "judge", "report"):
            alone = flags(world, server.url, tmp_path / "parts", "--stage", stage)
            assert main(alone) == 0
    whole, parts = ((tmp_path / n / "items.jsonl").read_bytes() for n in ("whole", "parts"))
    assert whole == parts


def test_limit(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    file = tmp_path / "world" / world.name
    file.write_text(world.read_text() + '{"image":\n')  # beyond the limit: nobody's business
    with serve(answer) as server:
        assert main(flags(file, server.url, tmp_path / "run", "--limit", "5")) == 0
    assert len(items(tmp_path / "run")) == 5 and kinds(server).count("caption") == 3 * 2


def test_killed_at_any_moment_it_goes_on(world: Path, tmp_path: Path) -> None:
    """SIGKILLs spread over one run, with replies that take a moment."""

    def slowly(request: Request) -> Reply:
        reply = answer(request)
        return Reply(reply.text, after_s=0.1)

    rng = random.Random(0)
    slow = ["--captioner.concurrency=2", "--reader.concurrency=2"]
    with serve(slowly) as server:
        assert main(flags(world, server.url, tmp_path / "unbroken", *slow)) == 0
        unasked = len(server.requests)
        server.requests.clear()
        command = [sys.executable, str(ROOT / "tools" / "eval_prism.py")]
        command += flags(world, server.url, tmp_path / "broken", *slow)
        for at in sorted(rng.randrange(unasked) for _ in range(KILLS)):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
            while process.poll() is None and len(server.requests) < at:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert main(flags(world, server.url, tmp_path / "broken", *slow)) == 0
        # At each kill no more was lost than what was in flight.
        assert len(server.requests) <= unasked + KILLS * 2
    one, two = ((tmp_path / n / "items.jsonl").read_bytes() for n in ("unbroken", "broken"))
    assert one == two


def test_interrupted_it_ends_at_once_and_has_what_came(world: Path, tmp_path: Path) -> None:
    """Of two captions of an image one never comes: the other is on disk, Ctrl-C does not wait."""

    def stuck(request: Request) -> Reply:
        return Reply(answer(request).text, after_s=60 if request["seed"] % 2 else 0)

    with serve(stuck) as server:
        command = [sys.executable, str(ROOT / "tools" / "eval_prism.py")]
        command += flags(world, server.url, tmp_path / "run", "--limit", "2")
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            # The workers of a test run may ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        written = tmp_path / "run" / "captions.jsonl"
        while process.poll() is None and not (written.exists() and written.read_text()):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said = process.communicate()[1]
    assert process.returncode == INTERRUPTED and "run again to go on" in said
    assert time.monotonic() - began < 20
    (line,) = written.read_text().splitlines()
    assert json.loads(line)["text"]


def test_a_server_of_this_machine_needs_no_proxy(world: Path, tmp_path: Path, monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serve(answer) as server:
        assert main(flags(world, server.url, tmp_path / "run", "--limit", "1")) == 0


# --- what is missing --------------------------------------------------------------------------


def test_failures_are_counted_and_tried_again(world: Path, tmp_path: Path, capsys) -> None:
    """Captions of videos fail first, then every third answer; the third run mends it all."""
    out, broken = tmp_path / "run", {"captions": True, "answers": False}
    count = iter(range(10_000))

    def moody(request: Request) -> Reply:
        text, media = spoken(request["messages"])
        if broken["captions"] and len(media) > 1:
            return Reply(status=500)
        if broken["answers"] and not media and next(count) % 3 == 0:
            return Reply(status=503)
        return answer(request)

    with serve(moody) as server:
        run = flags(world, server.url, out)
        assert main(run) == INCOMPLETE
        said = capsys.readouterr().err
        assert "missing 6 captions; run again" in said
        assert f"\n  6 captions: {server.url}: InternalServerError" in said
        record = items(out)[-1]
        assert record["mean"] is None and record["best"] is None
        assert "InternalServerError" in record["captions"][0]["missing"]
        assert summary(out)["missing"]["captions"] == 6  # once, for both questions of a video
        assert summary(out)["scored"] == 12
        assert "6 captions" in (out / "table.md").read_text()

        broken.update(captions=False, answers=True)
        assert main([*run, "--keep-failed"]) == INCOMPLETE  # left as they are
        assert summary(out)["missing"]["captions"] == 6
        assert "without --keep-failed" in capsys.readouterr().err
        assert main(run) == INCOMPLETE
        missing = summary(out)["missing"]
        assert missing["captions"] == 0 and missing["answers"] > 0

        broken.update(answers=False)
        assert main(run) == 0
        mended = (out / "items.jsonl").read_bytes()
        assert main(flags(world, server.url, tmp_path / "fresh")) == 0
    assert mended == (tmp_path / "fresh" / "items.jsonl").read_bytes()


def test_media_and_rows_that_cannot_be_used(tmp_path: Path, capsys) -> None:
    world = write_world(tmp_path, images=3, videos=2)
    (tmp_path / "image0.png").unlink()
    truncate(tmp_path / "video3.mp4", 0.3)
    with world.open("a") as file:
        file.write('{"image": "image1.png", "questions": [\n')
        file.write('{"image": "image1.png", "questions": [{"question": "?", "choices": ["a"]}]}\n')
    with serve(answer) as server:
        assert main(flags(world, server.url, tmp_path / "run")) == INCOMPLETE
    said = capsys.readouterr().err
    assert f"broken row: {world}:6: record: malformed JSON" in said
    assert f"broken row: {world}:7: questions[0]" in said
    about = summary(tmp_path / "run")
    assert about["missing"] == {**dict.fromkeys(about["missing"], 0), "rows": 2, "media": 2,
                                "captions": 4}  # fmt: skip
    told = {line.split(": ")[0]: line for line in said.splitlines() if line.startswith("  ")}
    assert set(told) == {"  2 captions", "  1 rows"} and "2 media" in said
    assert len([line for line in said.splitlines() if line.startswith("  ")]) == 4
    assert [b["source"] for b in about["broken"]] == [f"{world}:6", f"{world}:7"]
    reasons = {r["id"]: r["captions"][0]["missing"] for r in items(tmp_path / "run")}
    assert "image0.png: No such file" in reasons["s0#0"] and "video3.mp4" in reasons["s3#1"]
    assert about["scored"] == 6 and about["items"] == 10


def test_an_endpoint_that_is_not_there(world: Path, tmp_path: Path, capsys) -> None:
    run = flags(world, "http://127.0.0.1:9/v1", tmp_path / "run", "--captioner.timeout_s=2")
    assert main(run) == INCOMPLETE
    about = summary(tmp_path / "run")
    assert about["mean"] is None and about["missing"]["captions"] == 18
    assert (
        "http://127.0.0.1:9/v1: APIConnectionError"
        in items(tmp_path / "run")[0]["captions"][0]["missing"]
    )


def test_the_key_is_sent_and_never_written(world: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PRISM_KEY", KEY)
    keys = ["--captioner.api_key_env=PRISM_KEY", "--reader.api_key_env=PRISM_KEY"]

    def leaky(request: Request) -> Reply:
        return Reply(status=401, raw=json.dumps({"error": f"bad key {KEY}"}).encode())

    with serve(leaky) as server:
        assert main(flags(world, server.url, tmp_path / "run", *keys)) == INCOMPLETE
    assert all(h["authorization"] == f"Bearer {KEY}" for h in server.headers)
    for file in (tmp_path / "run").iterdir():
        assert KEY.encode() not in file.read_bytes(), file.name


def test_two_processes_cannot_share_a_folder(world: Path, tmp_path: Path, capsys) -> None:
    from caprl_native.inference.store import locked

    (tmp_path / "run").mkdir()
    lock = locked(tmp_path / "run")
    with pytest.raises(SystemExit) as error:
        main(flags(world, "http://127.0.0.1:9/v1", tmp_path / "run"))
    assert error.value.code == 2 and "another process works in" in capsys.readouterr().err
    lock.close()


# --- comparison -------------------------------------------------------------------------------


def test_runs_side_by_side(world: Path, tmp_path: Path) -> None:
    with serve(answer) as server:
        first, second = (tmp_path / name for name in ("first", "second"))
        assert main(flags(world, server.url, first, "--tag", "first")) == 0
        more = ["--run.seed=1", "--tag", "second", "--compare", str(first)]
        assert main(flags(world, server.url, second, *more)) == 0
        third = [*more, "--reader.max_tokens=7", "--out", str(tmp_path / "third")]
        assert main(flags(world, server.url, second, *third)) == 0
    assert "| not the same reader |" in (tmp_path / "third" / "table.md").read_text()
    table = (second / "table.md").read_text()
    assert "best of 2" in table
    ours, theirs = summary(second)["mean"], summary(first)["mean"]
    assert f"| {ours:.1f} (" in table and f"| {theirs:.1f} (" in table
    assert f"| {theirs - ours:+.1f} (" in table
    page = (second / "report.html").read_text("utf-8")
    assert '"others":[{"run":1,"captions":[{"text":' in page
    assert "others" not in items(second)[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data-path", "x.json"], "name its benchmark first"),
        (["--benchmark", "qa"], "no benchmark has files"),
        (["--benchmark", "chartqaa", "--data-path", "x.json"], "benchmarks.chartqa.files"),
        (["--stage", "captions"], "one of"),
        (["--limit"], "expected a value"),
        ([*QA], "captioner.path"),
        ([*QA, "--stage", "report"], "captioner.path"),
        ([*QA, "--rule", "caprl"], "has no rule"),
        ([*QA, "--captioner.path=/nowhere"], "no Hugging Face model directory"),
        ([*QA, "--captioner.temperature=0"], "greedy captions are all alike"),
        ([*QA, "--reader.top_p=0"], "reader.top_p"),
        ([*QA, "--judge.api_key_env=NO_SUCH_KEY"], "judge.api_key_env"),
        ([*QA, *SERVED, "--stage", "judge", "--skip-judge"], "contradicts"),
        ([*QA, *SERVED, "--compare", "/nowhere"], "no summary.json"),
    ],
)
def test_command_lines_that_cannot_be_used(words, expected, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2 and expected in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((ROOT / "train_configs").glob("prism*.toml")))
def test_every_recipe_makes_sense(file: Path, capsys) -> None:
    words = ["--config", str(file), "--benchmark", "mmstar", "--data-path", "x.jsonl"]
    models = [f"--{t}.path={ROOT}/demo_models/{m}" for t, m in DEMO.items()]
    assert main([*words, *models, "--dry-run"]) == 0
    assert "demo_models/reader" in capsys.readouterr().out


def test_report_page_is_written(world: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    with serve(answer) as server:
        assert main(flags(world, server.url, tmp_path / "run")) == 0
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "s8#1" in page and page.count("data:image/jpeg") == 9
