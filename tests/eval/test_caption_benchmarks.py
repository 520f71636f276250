"""Caption benchmarks from their authors' files to their figures, with a judge behind real HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caprl_native.data.media import decode
from caprl_native.testing.chat_server import Reply, Request, serve
from caprl_native.types import Sample
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.items import ToJudge
from eval.prism import main
from tests.eval.benchmark_files import OFTEN, read
from tests.eval.caption_files import (
    MEDIA,
    QUESTIONS,
    WRITERS,
    judge,
    lines,
    write_captionqa_json,
)
from tests.eval.worlds import spoken

# Captions by what they are of, and the figures that they earn, worked out by hand.
CAPTIONS: dict[str, dict[str, str]] = {
    # red is right: 1; the question of yes or no is answered by No: 1; no title: 1/2 + 0.05.
    "captionqa": {"nat_001": "A red car . No rain.", "doc_002": "A plot."},
    # Yes is right, yes is wrong, the third is not told.
    "vcapsbench": {"v1": "Does the dog run? Yes. Is it 2*3 degrees? Yes."},
    # 7: one of two events, and two told of which one is the reference's. 8: no event at all.
    "dream1k": {"7": "A dog runs. A bird sings.", "8": "A room."},
    # camera: a1 one of two, b2 none; short: right.
    "vdc": {"camera/a1": "What shot is it? wide.", "camera/b2": "A field.",
            "short/a1": "Who is it? a man."},
    # Hair and its colour: right; tables wrong (5), chairs not there; right pan for left: wrong;
    # event right, action right.
    "capability": {"object_color_0": "golden hair", "n_0": "5 table", "m_0": "It pans right",
                   "event_1": "A dog runs."},
}  # fmt: skip
FIGURES: dict[str, dict[str, float]] = {
    "captionqa": {"mean": 85.0, "accuracy": 200 / 3, "cannot answer": 100 / 3},
    "vcapsbench": {"mean": 100 / 3, "IR": 50.0, "CR": 200 / 3},
    # youtube 1/2 and 1/2, movies 0 and 0: mean 1/4 and 1/4. Of the videos: F1 1/2 and 0.
    "dream1k": {"mean": 25.0, "F1": 25.0, "recall": 25.0, "precision": 25.0, "F1 youtube": 50.0},
    # Grades: camera a1 (5 + 1) / 2, b2 1: 2; short 5: 3.5. Matches: (1/2 + 0) / 2, 1: 5/8.
    "vdc": {"mean": 50.0, "VDCscore": 3.5, "accuracy": 62.5, "VDCscore camera": 2.0},
    # Right, spoken of, all: colour 1 1 1; number 0 1 2; movement 0 1 1; event, action 1 1 1.
    "capability": {"mean": 50.0, "precision": 60.0, "hit": 90.0, "recall": 60.0, "F1": 60.0,
                   "hit dynamic_object_number": 50.0, "precision event": 100.0},
}  # fmt: skip
NAMES = list(WRITERS)


def command(name: str, files: Files, url: str, out: Path, *more: str) -> list[str]:
    words = ["--benchmark", name, "--data-path", *map(str, files.paths)]
    words += ["--media-root", str(files.media_root)] if files.media_root else []
    words += [f"--judge.endpoint={url}", "--judge.model=judge", "--captioner.n=1", *MEDIA]
    return [*words, "--out", str(out), "--run.progress=false", *more]


def written(out: Path, name: str) -> dict[str, Any]:
    part = json.loads((out / "summary.json").read_text())["benchmarks"][name]
    return {**part, **part["metrics"]}


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory) -> tuple[str, Files]:
    return request.param, WRITERS[request.param](tmp_path_factory.mktemp(request.param))


def test_items_are_of_real_media(case: tuple[str, Files]) -> None:
    name, files = case
    items, broken = read(name, files)
    assert not broken and len({i.id for i in items}) == len(items)
    for item in items:
        assert item.question and item.source and item.groups and item.answer
        assert len(decode(Sample(item.id, item.media, ()), OFTEN)) == 1
        score = benchmarks()[name].score(item, "A caption\n| of it.", "official")
        assert isinstance(score, ToJudge) and "of it." in score.messages[-1]["content"]


def test_figures_of_captions_made_elsewhere(case: tuple[str, Files], tmp_path: Path) -> None:
    """Nothing but the judge is asked; a second run asks nobody."""
    name, files = case
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps(CAPTIONS[name]))
    with serve(judge) as server:
        words = command(name, files, server.url, tmp_path / "run", "--captions", str(captions))
        assert main(words) == 0
        asked = len(server.requests)
        assert main(words) == 0 and len(server.requests) == asked
    part = written(tmp_path / "run", name)
    for figure, value in FIGURES[name].items():
        assert part[figure] == pytest.approx(value), figure
    assert part["scored"] == part["items"] and not any(part["missing"].values())
    table = (tmp_path / "run" / "table.md").read_text()
    assert "judged by judge" in table and "read by" not in table
    first = benchmarks()[name].headline[0]
    assert f"{benchmarks()[name].title}: {first} {FIGURES[name].get(first, 50.0):.2f}" in table


def test_a_captioner_writes_the_captions(case: tuple[str, Files], tmp_path: Path) -> None:
    """Of each image or video one, whatever is asked about it; no reader is wanted."""
    name, files = case

    def answer(request: Request) -> Reply:
        return Reply("A dog runs.") if spoken(request["messages"])[1] else judge(request)

    with serve(answer) as server:
        models = [f"--captioner.endpoint={server.url}", "--captioner.model=captioner"]
        words = command(name, files, server.url, tmp_path / "run", *models)
        assert main(words) == 0
        captioned = [r for r in server.requests if spoken(r["messages"])[1]]
    captions = {"vdc": 2, "capability": 2}.get(name, 1)  # files that are alike count once
    assert len(captioned) == captions  # VDC has a prompt for each kind, CAPability both media
    assert written(tmp_path / "run", name)["scored"] == len(read(name, files)[0])


def test_a_judge_that_cannot_be_read_gives_no_score(
    case: tuple[str, Files], tmp_path: Path
) -> None:
    name, files = case
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps(CAPTIONS[name]))
    with serve(lambda request: Reply("Well, that depends on what one makes of it.")) as server:
        words = command(name, files, server.url, tmp_path / "run", "--captions", str(captions))
        assert main(words) == 3
    part = written(tmp_path / "run", name)
    items = len(read(name, files)[0])
    assert part["scored"] == 0 and part["mean"] is None and part["missing"]["judgements"] == items
    assert part["metrics"] == {}


# --- files ------------------------------------------------------------------------------------


def test_captionqa_by_image(tmp_path: Path) -> None:
    items, broken = read("captionqa", write_captionqa_json(tmp_path))
    assert not broken and [i.id for i in items] == ["nat_001#0", "nat_001#1", "doc_002#0"]
    assert items[0].media[0].path == str(tmp_path / "images" / "nat_001.png")
    assert items[0].groups == {"category": "Attribute", "domain": "nat"}
    gold = dict(zip("ABCDEF", items[0].choices, strict=False))[items[0].answer]
    assert gold == "red" and sorted(items[1].choices) == ["No", "Yes"]


def test_questions_that_are_none_are_broken_and_others_stay(tmp_path: Path) -> None:
    wrong = [{**QUESTIONS["doc_002"][0], "answer": "Loss over time"}, {"question": "?"}, "?"]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"nat_001": [*QUESTIONS["nat_001"], *wrong]}))
    items, broken = read("captionqa", Files((path,), None))
    assert len(items) == 2
    told = " / ".join(b.reason for b in broken)
    assert "none of the choices" in told and "0 choices" in told and "is no question" in told

    qa = ["action*Does it run?*Yes", "action*Does it run?", "action*Does it run?*Perhaps", 7]
    record = {"video_id": "v1", "qa": qa}
    items, broken = read("vcapsbench", Files((lines(tmp_path / "a.jsonl", record),), None))
    assert len(items) == 1 and len(broken) == 3
    assert "'Perhaps' is none of yes, no, unanswerable" in broken[1].reason

    asked = {"v1": [{"question": "Who?"}, {"question": "Who?", "answer": "a man"}], "v2": []}
    items, broken = read("vdc", Files((lines(tmp_path / "short.jsonl", asked),), None))
    assert [i.id for i in items] == ["short/v1#1"] and len(broken) == 2

    record = {"file_id": "1", "file_path": "1.jpg", "task": "style", "data_type": "image"}
    bad = [{**record, "annotation": a} for a in ("photo", None, {"hair": True}, "")]
    bad.append({**record, "task": "mood", "annotation": "glad"})
    items, broken = read("capability", Files((lines(tmp_path / "style.jsonl", *bad),), None))
    assert not items and len(broken) == 5

    record = {"idx": 1, "video_file": "1.mp4", "description": "A dog runs.", "source": "a"}
    bad = [{**record, "events": e} for e in ([], "none", [3])] + [{"idx": 2, "video_file": "1.mp4"}]
    items, broken = read("dream1k", Files((lines(tmp_path / "d.jsonl", *bad),), None))
    assert not items and len(broken) == 4


@pytest.mark.parametrize("form", ["list", "lines"])
def test_dreams_metadata(form: str, tmp_path: Path) -> None:
    """The data set's own file: flat; without events the judge lists those of the reference."""
    records = [
        {"idx": "1", "video_file": "video/1.mp4", "source": "stock", "description": "A dog runs.",
         "events": "['A dog runs.']", "n_events": "6", "n_shots": "2", "n_subjects": "0"},
        {"idx": "2", "video_file": "video/2.mp4", "source": "stock", "description": "A man sits."},
    ]  # fmt: skip
    path = tmp_path / "json" / "metadata.json"
    if form == "list":
        lines(path).write_text(json.dumps(records))
    else:
        lines(path, *records)
    items, broken = read("dream1k", Files((path,), None))
    assert not broken and [i.answer for i in items] == [["A dog runs."], None]
    assert items[0].groups == {
        "source": "stock", "subjects": "1 or none", "shots": "2", "events": "6 to 7"
    }  # fmt: skip
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"1": "Look: A dog runs.", "2": "A man sits."}))
    with serve(judge) as server:
        words = command("dream1k", Files((path,), None), server.url, tmp_path / "run")
        assert main([*words, "--captions", str(captions)]) == 0
        assert len(server.requests) == 3 + 2  # of the second, equal in all, each step once
    assert written(tmp_path / "run", "dream1k")["F1"] == 100.0


# --- captions made elsewhere ------------------------------------------------------------------


def test_captions_in_the_authors_own_forms(tmp_path: Path) -> None:
    """CAPability's rows, Tarsier's predictions; one caption of a video for all kinds of VDC's."""
    captions = {
        "capability": [{"file_id": n, "caption": t} for n, t in CAPTIONS["capability"].items()],
        "dream1k": [{"idx": int(n), "dataset": "DREAM/x", "text": {"response": "", "prediction": t}}
                    for n, t in CAPTIONS["dream1k"].items()],
        "vdc": [{"video_id": "a1", "caption": "Who is it? a man."},
                {"video_id": "b2", "caption": "A field."}],
    }  # fmt: skip
    for name, records in captions.items():
        files = WRITERS[name](tmp_path / name)
        path = lines(tmp_path / f"{name}.jsonl", *records)
        with serve(judge) as server:
            words = command(name, files, server.url, tmp_path / f"run-{name}")
            assert main([*words, "--captions", str(path)]) == 0
    for name in ("capability", "dream1k"):
        assert written(tmp_path / f"run-{name}", name)["mean"] == FIGURES[name]["mean"]
    assert written(tmp_path / "run-vdc", "vdc")["accuracy"] == 50.0  # short alone


@pytest.mark.parametrize(
    ("captions", "problem"),
    [
        ({"camera/a1": "x", "camera/b2": "x"}, "no captions of 1 of 4 items"),
        ({"a1": "x", "b2": "x", "short/a1": "y"}, "captions of 'short/a1#0' are there twice"),
        ({"a1": "x", "b2": "x", "c3": "x"}, "id 'c3' is of no item"),
    ],
)
def test_captions_that_do_not_fit(captions, problem, tmp_path, capsys) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(captions))
    words = command("vdc", WRITERS["vdc"](tmp_path), "http://127.0.0.1:9/v1", tmp_path / "run")
    with pytest.raises(SystemExit):
        main([*words, "--captions", str(path)])
    assert problem in capsys.readouterr().err
