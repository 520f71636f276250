"""A record format is one file: a plugin, read in the trainer and in its loader's workers alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caprl_native import registry
from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data import records as records_module
from caprl_native.data.loader import LoadedSample, build_loader
from caprl_native.data.record_formats import FORMATS, PLAIN
from caprl_native.data.records import DataError, Records, read_records
from caprl_native.registry import load_plugin
from caprl_native.testing.media_files import write_png
from caprl_native.types import Question

FORMAT = '''
"""Records as {"photo": path, "quiz": [[question, right, wrong, ...], ...]}."""

from caprl_native.data.record_formats import FORMATS, RecordFormat, parse_plain


class Quiz(RecordFormat):
    def matches(self, raw):
        return "quiz" in raw

    def parse(self, raw, reading):
        questions = [
            {"question": asked, "choices": choices, "answer": "A"}
            for asked, *choices in raw["quiz"]
        ]
        plain = {"id": raw.get("id"), "image": raw["photo"], "questions": questions}
        return parse_plain(plain, reading)


FORMATS.add("quiz", Quiz())
'''
QUIZ = {"photo": "a.png", "quiz": [["What colour?", "red", "blue"], ["How many?", "1", "2", "3"]]}
USUAL = {
    "id": "usual",
    "image": "a.png",
    "questions": [{"question": "Which?", "choices": ["x", "y"], "answer": "B"}],
}


@pytest.fixture
def quiz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The format, for one test: known by its plugin's file alone."""
    list(FORMATS)
    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS._entries))
    monkeypatch.setattr(registry, "PLUGINS", [])
    monkeypatch.setattr(records_module, "PLUGINS", registry.PLUGINS)
    (tmp_path / "quiz_format.py").write_text(FORMAT)
    load_plugin(str(tmp_path / "quiz_format.py"))
    yield
    del sys.modules["quiz_format"]


def read(folder: Path, *lines: dict) -> Records:
    write_png(folder / "a.png", (8, 8))
    (folder / "d.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return read_records([folder / "d.jsonl"])


def test_records_of_both_formats_are_read_side_by_side(quiz, tmp_path):
    first, second = read(tmp_path, QUIZ, USUAL)
    assert first.questions == (
        Question("What colour?", ("red", "blue"), 0),
        Question("How many?", ("1", "2", "3"), 0),
    )
    assert first.media[0].path == str(tmp_path / "a.png") and first.id == "d:1"
    assert (second.id, second.questions[0].answer) == ("usual", 1)


def test_a_worker_imports_the_plugin(quiz, tmp_path):
    records = read(tmp_path, QUIZ, USUAL)
    config = DataConfig(batch_size=2, workers=1, shuffle=False)
    loader = build_loader(
        records, config, MediaConfig(image_min_pixels=1), seed=0, shard=0, num_shards=1
    )
    try:
        items = next(loader)
    finally:
        loader.close()
    assert all(isinstance(item, LoadedSample) for item in items)
    assert [item.sample.questions for item in items] == [r.questions for r in records]


def test_what_a_format_cannot_read_is_told_with_its_place(quiz, tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, USUAL, {"quiz": []}, {"photo": "a.png", "quiz": []})
    first, second = str(caught.value).splitlines()[1:]
    file = tmp_path / "d.jsonl"
    assert first == f"{file}: line 2: record: the format 'quiz' cannot read it: KeyError: 'photo'"
    assert second.startswith(f"{file}: line 3: questions: the list is empty")


def test_without_the_plugin_nothing_but_the_released_formats_is_known(tmp_path):
    assert PLAIN in FORMATS and "quiz" not in FORMATS
    with pytest.raises(DataError, match="images: no image and no video"):
        read(tmp_path, QUIZ)
    assert read(tmp_path, USUAL).plugins == ()
