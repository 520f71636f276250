"""The proof of a GPU machine, as its CPU equivalent: every part runs and is told, failures too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# And the engine, in a run that must fail. Not the demo, of which a CPU shows nothing that is not
# tested already: tests/train/test_loop.py kills and resumes, tests/test_demo_models.py runs it.
PARTS = ("kernels", "updates", "two_engines")
MAX_GAP = 0.05  # nats, the default


def smoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_smoke.py"), *arguments]
    launched = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}  # which is no part's business
    environment = os.environ | launched
    return subprocess.run(command, capture_output=True, text=True, timeout=800, env=environment)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(the finished process, its JSON) of some parts."""
    out = tmp_path_factory.mktemp("smoke") / "found.json"
    done = smoke("--cpu", *(f"--only={part}" for part in PARTS), f"--out={out}")
    assert out.exists(), done.stderr
    return done, json.loads(out.read_text())


def test_every_part_runs_and_keeps_its_bounds(report):
    done, found = report
    failed = [row for row in found["rows"] if not row["ok"]]
    assert not failed, done.stderr
    assert (done.returncode, found["ok"], found["cpu"]) == (0, True, True)
    assert list(dict.fromkeys(row["part"] for row in found["rows"])) == list(PARTS)


def test_the_table_has_a_line_for_every_check(report):
    done, found = report
    head, *lines, last = done.stdout.strip().splitlines()[1:]
    assert head.split() == ["part", "checked", "figure", "bound", "seconds"]
    for line, row in zip(lines, found["rows"], strict=True):
        assert line.startswith(row["part"]) and row["what"] in line and row["bound"] in line
    assert f"{len(lines)} checks, 0 failed" in last


def test_hardware_and_versions_are_named(report):
    machine = report[1]["machine"]
    assert {"device", "driver", "cuda", "cores"} <= machine.keys()
    assert {"torch", "transformers"} <= machine["versions"].keys()


def test_what_only_a_gpu_shows_is_said_and_not_passed_over(report):
    told = [row["what"] for row in report[1]["rows"] if row["figure"] == "not on a CPU"]
    assert {"both sleep and wake together", "peak / planned memory", "perf/mfu"} <= set(told)


def test_a_bound_that_nothing_keeps_ends_it_with_1(tmp_path):
    """The engine's: all else of it is good, and the log stays to say why."""
    out = tmp_path / "found.json"
    done = smoke("--cpu", "--only=engine", "--max-gap=0", f"--out={out}")
    rows = json.loads(out.read_text())["rows"]
    assert done.returncode == 1
    failed = {row["what"]: row["figure"] for row in rows if not row["ok"]}
    gaps = ("log-prob gap, nats", "trainer moved and synced: gap", "gap after waking")
    assert tuple(failed) == gaps, done.stderr
    assert all(0 < figure <= MAX_GAP for figure in failed.values())
    assert (tmp_path / "found-engine.log").exists() and "found-engine.log" in done.stderr


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_smoke

    return gpu_smoke


def test_without_only_all_parts_run(runner):
    assert set(runner.LIMITS) == {*PARTS, "engine", "demo"}
    assert sum(runner.LIMITS.values()) <= 20 * 60


def test_a_part_beyond_its_time_is_a_failed_row(runner, tmp_path, monkeypatch):
    from smoke.findings import Options

    monkeypatch.setitem(runner.LIMITS, "kernels", 0.01)
    rows = runner.run_part("kernels", Options(tmp_path), tmp_path / "log")
    assert [(row.figure, row.ok) for row in rows] == [("took more than 0.01 s", False)]


def test_an_abort_takes_no_row_that_was_there(runner, tmp_path, monkeypatch):
    """A process that aborts after its first check, as CUDA's and NCCL's asserts do."""
    from smoke.findings import Options

    (tmp_path / "smoke").mkdir()
    row = {"part": "x", "what": "y", "figure": 1, "bound": "", "ok": True, "seconds": 0}
    (tmp_path / "smoke" / "aborts.py").write_text(
        f"import os\nprint({json.dumps(json.dumps(row))}, flush=True)\nos.abort()\n"
    )
    monkeypatch.setattr(runner, "HERE", tmp_path)
    rows = runner.run_part("aborts", Options(tmp_path, cpu=True), tmp_path / "log")
    assert [(row.what, row.figure, row.ok) for row in rows] == [
        ("y", 1, True),
        ("the process", "ended with -6", False),
    ]


def test_an_exception_fails_its_check_alone(runner, capsys):
    from smoke.findings import Finding, rows_of

    def checks():
        yield "first", lambda: 1 / 0
        yield "second", lambda: Finding(2.0)
        import no_such_library  # noqa: F401

    told = [(row.what, row.figure, row.ok) for row in rows_of("part", checks())]
    assert told == [
        ("first", "ZeroDivisionError: division by zero", False),
        ("second", 2.0, True),
        ("setting up", "no_such_library is not installed", False),
    ]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_refuses_in_one_sentence(tmp_path):
    done = smoke(f"--out={tmp_path / 'found.json'}")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: no CUDA device: torch ") and "--cpu" in line
    assert not (tmp_path / "found.json").exists()
