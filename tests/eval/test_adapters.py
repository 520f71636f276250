"""Each benchmark's files are read as their authors write them, asked, and scored by their rule."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from caprl_native import registry
from caprl_native.data.media import decode
from caprl_native.registry import load_plugin
from caprl_native.testing.media_files import write_png
from caprl_native.types import Sample
from eval.benchmarks import benchmarks
from eval.benchmarks.base import BENCHMARKS, Files
from eval.items import CAPTION, ToJudge
from tests.eval.benchmark_files import EXAMPLES, IMAGES, OFTEN, read, write_files

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"
NAMES = sorted(EXAMPLES)
# Whose captions are judged themselves; their tests are in test_caption_benchmarks.py.
CAPTIONED = ("vdc", "captionqa", "vcapsbench", "dream1k", "capability")


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    """A benchmark with its items and what they should be."""
    name = request.param
    items, broken = read(name, write_files(tmp_path_factory.mktemp(name), name))
    assert not broken
    return benchmarks()[name], items, EXAMPLES[name]


def tagged(answer: str) -> str:
    """An answer as the reference's reader writes it."""
    return f"<think>So the caption says.</think>\n<answer>\\boxed{{{answer}}}</answer>"


def test_all_are_found():
    assert sorted(benchmarks()) == sorted([*NAMES, *CAPTIONED, "qa"])
    for name, benchmark in benchmarks().items():
        assert benchmark.title and benchmark.modality in ("image", "video", "both")
        assert benchmark.rules == (("official", "caprl") if name in IMAGES else ("official",))


@pytest.mark.parametrize("name", [*NAMES, *CAPTIONED])
def test_a_docstring_gives_source_rule_and_citation(name):
    text = inspect.getdoc(type(benchmarks()[name]))
    assert all(f"\n{part}: " in text for part in ("Source", "Rule", "Citation"))
    assert re.search(r"\b20\d\d\.\s*$", text)


def test_items_are_those_of_the_file(case):
    _, items, examples = case
    found = [(i.id, i.answer, i.choices, i.groups) for i in items]
    assert found == [(e.id, e.answer, e.choices, e.groups) for e in examples]
    assert len({i.id for i in items}) == len(items)
    assert all(i.question and i.source for i in items)


def test_media_can_be_decoded(case):
    benchmark, items, _ = case
    for item in items:
        assert item.modality == benchmark.modality
        assert len(decode(Sample(item.id, item.media, ()), OFTEN)) == len(item.media) > 0


def test_the_chat_has_caption_question_and_choices(case):
    benchmark, items, _ = case
    for item in items:
        chat = benchmark.chat(item, " A <cat> on {a} mat.\n")
        text = "\n".join(turn["content"] for turn in chat)
        assert text.count("A <cat> on {a} mat.") == 1 and CAPTION not in text
        assert item.question in text and all(choice in text for choice in item.choices)
        assert chat[-1]["role"] == "user" and "image_pad" not in text


def test_the_official_rule_tells_right_from_wrong(case):
    benchmark, items, examples = case
    for item, example in zip(items, examples, strict=True):
        right, wrong, refusal = (
            benchmark.score(item, output, "official")
            for output in (example.right, tagged(example.wrong), "The caption does not say.")
        )
        assert benchmark.score(item, "<think>Well", "official").score == 0
        if example.judged:
            for score, said in ((right, example.right), (wrong, example.wrong)):
                assert isinstance(score, ToJudge)
                asked = score.messages[-1]["content"]
                assert item.question in asked and item.answer in asked and said in asked
                assert "So the caption says" not in asked
        else:
            assert (right.score, wrong.score) == (1, 0) and right.said
            assert isinstance(refusal, ToJudge) if item.id == "charxiv:1" else refusal.score == 0


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_the_references_rule_wants_a_box_in_answer_tags(tmp_path, name):
    items, _ = read(name, write_files(tmp_path, name))
    for item, example in zip(items, IMAGES[name], strict=True):
        right, wrong, bare = (
            benchmarks()[name].score(item, output, "caprl")
            for output in (tagged(example.right), tagged(example.wrong), example.right)
        )
        assert (wrong.score, bare.score) == (0, 0)
        assert right.said == example.right
        assert right.score == reference_score(example.id)


def reference_score(item: str) -> float:
    """What the reference makes of the right answers: 1, but where its faults are in the way."""
    # It reads a list of golds on charts only, and takes articles and capitals for factors.
    return 0.0 if item in ("mmmu:2", "mmmu:3") else 1.0


@pytest.mark.parametrize("name", ["chartqa", "charxiv", "mmstar"])
def test_the_benchmark_decides_on_the_references_rule_not_the_path(tmp_path, name):
    folder = tmp_path / "infographics_and_charts"
    (item, *_), _ = read(name, write_files(folder, name))
    near = tagged("43.5" if name == "chartqa" else "4.1")
    expected = {"chartqa": 1, "charxiv": 1, "mmstar": 0}[name]
    assert benchmarks()[name].score(item, near, "caprl").score == expected


def test_chartqapro_wants_years_exactly_where_the_record_says_so(tmp_path):
    (share, year, _), _ = read("chartqapro", write_files(tmp_path, "chartqapro"))
    score = benchmarks()["chartqapro"].score
    assert score(share, "43", "official").score == 1
    assert score(year, "1998", "official").score == 0


def test_likeness_counts_on_infographics_only(tmp_path):
    (item,), _ = read("infovqa", write_files(tmp_path, "infovqa"))
    score = benchmarks()["infovqa"].score
    assert score(item, "The states", "official").score == pytest.approx(0.9)
    assert score(item, tagged("The states"), "caprl").score == pytest.approx(0.9)


def test_files_of_one_stem_do_not_share_ids(tmp_path):
    (tmp_path / "a").mkdir()
    files = write_files(tmp_path / "a", "mmstar")
    items, _ = read("mmstar", Files(files.paths * 2, files.media_root))
    assert [i.id for i in items] == ["17", "mmstar:2", "17@mmstar:1", "mmstar:2@mmstar:2"]


def test_the_table_in_the_docs_has_every_benchmark():
    assert set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)) == set(benchmarks())


def test_the_example_in_the_docs_runs_as_it_stands(tmp_path, monkeypatch):
    record, code = re.findall(r"```(?:python|json)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 25
    (tmp_path / "colours.py").write_text(code)
    monkeypatch.setattr(BENCHMARKS, "_entries", dict(BENCHMARKS._entries))
    monkeypatch.setattr(registry, "PLUGINS", [])
    load_plugin(str(tmp_path / "colours.py"))
    try:
        write_png(tmp_path / "images/1.png")
        (tmp_path / "test.jsonl").write_text(record)
        (item,), broken = read("colours", Files((tmp_path / "test.jsonl",), None))
        assert not broken and decode(Sample(item.id, item.media, ()), OFTEN)
        benchmark = benchmarks()["colours"]
        scores = [benchmark.score(item, said, "official").score for said in ("B", "A", "No idea.")]
        assert scores == [1, 0, 0] and item.groups == {"room": "kitchen"}
    finally:
        del sys.modules["colours"]
