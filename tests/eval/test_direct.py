"""The captioner answers itself, with the media in view: what it is asked, and the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.rewards.prompts import CANNOT_ANSWER
from caprl_native.testing.chat_server import Reply, serve
from eval.benchmarks import benchmarks
from eval.config import PrismConfig
from eval.plan import Captions
from eval.prism import main
from tests.eval.benchmark_files import EXAMPLES, read, write_files
from tests.eval.reference_runs import MEDIA, at, items, part
from tests.eval.worlds import spoken, write_world


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_question_speaks_of_a_caption(name: str, tmp_path: Path) -> None:
    """Each names its media once, where the caption would stand."""
    for item in read(name, write_files(tmp_path, name))[0]:
        chat = benchmarks()[name].direct_chat(item)
        parts = [part for turn in chat for part in turn["content"]]
        assert [p["type"] for p in parts if p["type"] != "text"] == [m.kind for m in item.media]
        text = " ".join(p["text"] for p in parts if p["type"] == "text")
        assert "caption" not in text.lower() and item.question.split("\n")[0] in text
        assert all(choice in text for choice in item.choices)


def test_that_a_caption_does_not_tell_is_no_choice(tmp_path: Path) -> None:
    from eval.benchmarks.base import Files

    item = read("qa", Files((write_world(tmp_path, images=1, videos=0),), None))[0][0]
    (turn,) = benchmarks()["qa"].direct_chat(item)
    assert item.choices[-1] == CANNOT_ANSWER and CANNOT_ANSWER not in turn["content"][-1]["text"]


def test_the_captioner_answers_and_no_reader_is_asked(tmp_path: Path) -> None:
    world = write_world(tmp_path, images=2, videos=1)
    out = tmp_path / "run"

    def look(request: dict) -> Reply:
        return Reply(f"The answer is {'ABCD'[request['seed'] % 4]}.")

    words = ["--benchmark", "qa", "--data-path", str(world), "--out", str(out), *MEDIA]
    words += ["--run.progress=false", "--mode", "direct", "--captioner.n=4"]
    with serve(look) as server:
        words += at("captioner", server.url)
        assert main(words) == 0
        assert len(server.requests) == 3 * 2 * 4
        assert all(spoken(r["messages"])[1] for r in server.requests)
        assert main(words) == 0 and len(server.requests) == 3 * 2 * 4  # nothing twice
    for record in items(out):
        said = [c["verdict"]["said"] for c in record["captions"]]
        assert sorted(said) == ["A", "B", "C", "D"] and record["best"] == 1.0
    about = json.loads((out / "summary.json").read_text())
    assert part(out, "qa")["mean"] == 25.0 and part(out, "qa")["caption_characters"] is None
    assert about["mode"] == "direct" and about["reader"] == about["captioner"]
    assert "answers by captioner/step_7, which sees the media" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--stage", "caption"], "run.stage"),
        (["--reference-layout"], "its files hold captions"),
        (["--captions", "x.json"], "benchmarks.qa.captions"),
    ],
)
def test_what_has_no_meaning_without_captions(more: list[str], problem: str, capsys) -> None:
    words = ["--benchmark", "qa", "--data-path", "x.jsonl", "--mode", "direct", *more]
    with pytest.raises(SystemExit):
        main([*words, *at("captioner", "http://127.0.0.1:9/v1")])
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("system", "roles"), [("template", ["user"]), ("", ["user"]), ("Be brief.", ["system", "user"])]
)
def test_the_system_turn_is_the_configs(system: str, roles: list[str], tmp_path: Path) -> None:
    files = write_files(tmp_path, "chartqa")
    config = PrismConfig(captioner={"system": system})
    captions = Captions(config)
    item = read("chartqa", files)[0][0]
    chat = captions.unit(item).messages
    assert [turn["role"] for turn in chat] == roles
    assert (captions.unit(item).key == Captions(PrismConfig()).unit(item).key) == (
        system == "template"
    )
    own = [t["role"] for t in captions.with_system(benchmarks()["chartqa"].direct_chat(item))]
    assert own == (["system", "user"] if system else ["user"])  # the record has one, too
