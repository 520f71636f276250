"""What the viewer reads of a run's folder, what it hands out, and what it writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from caprl_native.observe.meanings import meaning_of
from caprl_native.observe.pictures import Pictures
from caprl_native.observe.rollout_index import index_file, index_of_file, read_index
from caprl_native.testing.made_runs import MadeRun
from caprl_native.viewer.cli import main
from caprl_native.viewer.document import write_export
from caprl_native.viewer.run import Changed, NotARun, Run
from caprl_native.viewer.search import search, words_of
from caprl_native.viewer.server import build_app
from tests.ranks import ROOT

HOSTILE = "</script><script>alert(1)</script> \u2028 \u202e <img src=x onerror=alert(2)> & ]]>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps and an evaluation; one caption of the first step is hostile."""
    run = MadeRun(tmp_path_factory.mktemp("runs") / "made")
    for step in (1, 2, 3):
        run.step(
            step, alarm="it repeats itself" if step == 2 else "", captions=[HOSTILE][step - 1 :]
        )
    run.evaluate(3)
    return run.folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made"))


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


def news(run: Run, cursor: list[int] | None = None) -> dict[str, Any]:
    run.refresh()
    return json.loads("".join(run.news(cursor or [])))


# --- reading ----------------------------------------------------------------------------------


def test_the_index_is_that_of_the_file_and_leads_to_each_caption(made: Path) -> None:
    run = Run(made)
    run.refresh()
    assert {(s.kind, s.step) for s in run.steps} == {
        *(("rollouts", step) for step in (1, 2, 3)),
        ("eval", 3),
        ("blind", 3),
    }
    for step in run.steps:
        name = f"{step.kind}/{step.file.name}"
        assert read_index(made, name) == index_of_file(step.file) == step.index
        found = [record for number in range(len(step.lines)) for record in step.group(number)]
        assert found == rows(step.file)


def test_a_file_without_a_fitting_index_is_indexed_and_the_folder_is_left_alone(copy: Path) -> None:
    before = news(Run(copy))["steps"]
    index_file(copy, "rollouts/step_000001.jsonl").unlink()
    index_file(copy, "rollouts/step_000002.jsonl").write_text('{"version":1,"size":7,"groups":0}\n')
    files = sorted(copy.rglob("*"))
    assert news(Run(copy))["steps"] == before and sorted(copy.rglob("*")) == files


def test_what_is_new_is_all_that_is_told(copy: Path) -> None:
    """News after news is what one reading of everything is."""
    run, made_on = Run(copy), MadeRun(copy)
    told = [news(run)]
    for step in (4, 5):
        made_on.step(step, alarm="again" if step == 5 else "")
        told.append(news(run, told[-1]["cursor"]))
        assert [s["step"] for s in told[-1]["steps"]] == [step] and not told[-1]["again"]
    assert news(run, told[-1]["cursor"])["metrics"] == []
    whole = news(Run(copy))
    for part in ("metrics", "alarms"):
        assert [line for one in told for line in one[part]] == whole[part]
    key = lambda step: (step["kind"], step["step"])  # noqa: E731
    assert sorted((s for one in told for s in one["steps"]), key=key) == sorted(
        whole["steps"], key=key
    )


def test_a_resumed_run_is_read_anew_and_leftovers_are_not_shown(copy: Path) -> None:
    run = Run(copy)
    cursor = news(run)["cursor"]
    MadeRun(copy).log.start(1, 3)  # goes on after step 1, as a killed run does
    found = news(run, cursor)
    assert found["again"] and [row["step"] for row in found["metrics"]] == [1]
    assert [(s["kind"], s["step"]) for s in found["steps"]] == [("rollouts", 1)]
    MadeRun(copy).step(3)  # its evaluation is still to come: that of before is not this run's
    assert [(s["kind"], s["step"]) for s in news(run, found["cursor"])["steps"]] == [
        ("rollouts", 3)
    ]
    assert found["alarms"] == []


def test_torn_and_broken_lines_spoil_nothing_else(copy: Path) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "policy/loss": NaN}\nnot json\n[1]\n{"step": 5, "policy/lo')
    (copy / "rollouts/step_000002.jsonl").write_text("{}\n")
    found = news(Run(copy))
    assert found["metrics"][-1] == {"step": 4, "policy/loss": None}
    assert list(found["broken"]) == ["rollouts/step_000002.jsonl"]
    assert {s["step"] for s in found["steps"]} == {1, 3}


def test_a_file_that_was_written_anew_is_not_misread(copy: Path) -> None:
    run = Run(copy)
    run.refresh()
    step, file = run.find("rollouts", 1), copy / "rollouts/step_000001.jsonl"
    file.write_text(file.read_text("utf-8").replace("sample-00001", "sample-99999"))
    with pytest.raises(Changed):
        step.group(0)


def test_every_metric_of_a_run_has_a_meaning(made: Path) -> None:
    found = news(Run(made))
    names = {name for row in found["metrics"] for name in row} - {"step"}
    assert len(names) > 20 and found["meanings"].keys() == names
    assert meaning_of("reward/mine/part", {"mine": "unheard_of"}) is None
    kinds = {entry["shows"].get("kind") for entry in found["meanings"].values()}
    assert kinds == {None, "eval", "blind"}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(NotARun, match="expected a run's folder"):
        Run(tmp_path)
    assert main([str(tmp_path)]) == 2 and "expected a run's folder" in capsys.readouterr().err


def test_the_viewer_is_there_without_torch(made: Path) -> None:
    """What it imports, for numbers, pictures and all, takes no seconds to load."""
    code = (
        "import sys; from pathlib import Path; from caprl_native.viewer.server import Pages\n"
        f"from caprl_native.viewer.run import Run; run = Run(Path({str(made)!r})); run.refresh()\n"
        "''.join(run.news([])); Pages([run]).pictures.of(run.steps[0].group(0)[0])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_search_finds_what_is_said_and_not_how_it_is_written(made: Path) -> None:
    run = Run(made)
    run.refresh()
    assert words_of('red "fire  truck" "') == ["red", "fire  truck"]
    assert search(run, "ONERROR=alert(2)")["found"] == [["rollouts", 1, 0]]
    assert search(run, "caption total")["found"] == []  # names of fields
    every = {(s.kind, s.step, n) for s in run.steps for n in range(len(s.lines))}
    assert {tuple(at) for at in search(run, '"which colour is it?" garden')["found"]} == every


# --- the server -------------------------------------------------------------------------------


def asking(made: Path, **extra: Any) -> httpx.Client:
    from starlette.testclient import TestClient

    return TestClient(build_app([Run(made)], "token"), base_url="http://127.0.0.1", **extra)


def test_the_server_tells_of_the_run_alone(made: Path) -> None:
    with asking(made) as client:
        assert client.get("/token/").headers["content-type"].startswith("text/html")
        (found,) = client.get("/token/news").json()
        assert found["cursor"][1] == len(rows(made / "metrics.jsonl"))
        asked = {"run": "0", "kind": "rollouts", "step": "1", "group": "0"}
        records = client.get("/token/group", params=asked).json()
        assert records[0]["caption"] == HOSTILE
        (medium,) = client.get("/token/media", params=asked).json()
        assert medium["picture"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/news", "/tokem/news", "/token/../news", "/token/metrics.jsonl",
        "/token/..%2f..%2fetc",
        "/token/group?run=0&kind=../rollouts&step=1&group=0",
        "/token/group?run=0&kind=rollouts&step=../1&group=0",
        "/token/group?run=0&kind=rollouts&step=1&group=99",
        "/token/group?run=1&kind=rollouts&step=1&group=0",
        "/token/group?run=-1&kind=rollouts&step=1&group=0",
        "/token/media?run=0&kind=rollouts&step=1&group=0&path=/etc/passwd&group=-0",
        "/token/news?cursors=[[1]", '/token/news?cursors=[["a",0,0,0]]', "/token/news?cursors=7",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(made: Path, path: str) -> None:
    with asking(made) as client:
        client.get("/token/news")
        assert client.get(path).status_code == 404


def test_other_hosts_and_methods_are_refused(made: Path) -> None:
    with asking(made) as client:
        assert client.get("/token/", headers={"host": "evil.example"}).status_code == 400
        assert client.post("/token/news").status_code == 405
        headers = client.get("/token/").headers
        assert headers["x-frame-options"] == "DENY" and headers["cache-control"] == "no-store"


def test_media_that_are_none_are_said_not_shown(tmp_path: Path) -> None:
    """A record that names a file which is no picture gives nothing of it away."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    for name in (str(secret), str(tmp_path), "/no/such.png", "\0", "http://127.0.0.1/", ""):
        (found,) = Pictures().of({"media": [name]})
        assert found["picture"] is None and found["missing"]
        assert "the secret" not in json.dumps(found)


# --- the file ---------------------------------------------------------------------------------


def test_the_file_holds_the_run_and_hostile_text_is_dead(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert main([str(made), "--export", str(path)]) == 0
    page = path.read_text("utf-8")
    assert page.count("<script") == 5 and "onerror=alert(2)>" not in page and "\u2028" not in page
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    lines = page.split('id="groups-data">')[1].split("</script>")[0].strip().split("\n")
    found = dict(line.split("\t") for line in lines)
    assert json.loads(found["0/rollouts/1/0"])["records"][0]["caption"] == HOSTILE
    assert len(found) == sum(len(s["groups"]) for s in news(Run(made))["steps"])


def test_a_file_with_little_room_has_captions_of_every_step(made: Path, tmp_path: Path) -> None:
    kept, count = write_export(tmp_path / "page.html", [Run(made)], 0.12)
    page = (tmp_path / "page.html").read_text("utf-8")
    keys = re.findall(r"^0/(\w+)/(\d+)/(\d+)\t", page, re.MULTILINE)
    assert kept == len(keys) < count and {(k, s) for k, s, _ in keys} == {
        ("rollouts", "1"), ("rollouts", "2"), ("rollouts", "3"), ("eval", "3"), ("blind", "3"),
    }  # fmt: skip
    assert len(page) < 0.12 * 2**20 + 200_000
