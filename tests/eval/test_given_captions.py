"""Captions that were made elsewhere: forms of files, and what is said of those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caprl_native.data.records import DataError
from eval.captions import given_captions
from eval.config import PrismConfig
from eval.plan import load_benchmarks
from tests.eval.benchmark_files import write_files

IDS = ("17", "mmstar:2")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("mmstar"), "mmstar").paths[0]


def read(annotations: Path, given: Path, **run: Any) -> dict[str, list[str | None]]:
    """The texts of two captions of each item."""
    table = {"files": [str(annotations)], "captions": [str(given)]}
    config = PrismConfig(captioner={"n": 2}, run=run, benchmarks={"mmstar": table})
    found = given_captions(config, load_benchmarks(config))
    assert {benchmark for benchmark, _ in found} == {"mmstar"}
    return {name: [reply.text for reply in replies] for (_, name), replies in found.items()}


def write(path: Path, value: Any) -> Path:
    lines = [json.dumps(v) for v in value] if path.suffix == ".jsonl" else [json.dumps(value)]
    path.write_text("\n".join(lines))
    return path


def records(annotations: Path) -> list[Any]:
    return json.loads(annotations.read_text())


def forms(annotations: Path) -> dict[str, tuple[str, Any]]:
    """File name and content of each form; the captions are `<id>-0` and `<id>-1`."""
    samples = dict(zip(IDS, records(annotations), strict=True))
    made = {name: [f"{name}-0", f"{name}-1"] for name in IDS}
    ours = [
        {"benchmark": "mmstar", "id": name, "captions": [{"text": t} for t in texts]}
        for name, texts in made.items()
    ]
    other = [{"benchmark": "seed", "id": "17", "captions": [{"text": "no"}]}]
    return {
        "images": ("a.jsonl", [{"original_sample": samples[n], "generated_captions": t}
                               for n, t in made.items()]),
        "videos": ("a.json", [{"sample": samples[n], "captions": t} for n, t in made.items()]),
        "ours": ("items.jsonl", ours + other),
        "records": ("a.jsonl", [{"id": n, "captions": [*t, "more"]} for n, t in made.items()]),
        "by id": ("a.json", made),
    }  # fmt: skip


@pytest.mark.parametrize("form", ["images", "videos", "ours", "records", "by id"])
def test_every_form(form: str, annotations: Path, tmp_path: Path) -> None:
    name, value = forms(annotations)[form]
    path = write(tmp_path / name, value)
    wanted = {name: [f"{name}-0", f"{name}-1"] for name in IDS}
    assert read(annotations, path) == wanted
    if form == "ours":
        assert read(annotations, tmp_path) == wanted  # the run's folder


def test_what_is_null_or_blank_is_missing(annotations: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"17": ["a", None], "mmstar:2": [" ", "b"]})
    assert read(annotations, path) == {"17": ["a", None], "mmstar:2": [None, "b"]}


def test_with_keep_failed_what_is_not_there_is_missing(annotations: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"17": ["a", "b"]})
    assert read(annotations, path, keep_failed=True) == {
        "17": ["a", "b"],
        "mmstar:2": [None, None],
    }


def test_beyond_a_limit_nothing_is_unknown(annotations: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {name: ["a", "b"] for name in IDS})
    assert read(annotations, path, limit=1) == {"17": ["a", "b"]}


PAIR = ["a", "b"]
BAD = [
    ("a.json", {"17": PAIR}, "no captions of 1 of 2 items, the first of them 'mmstar:2'"),
    ("a.json", dict.fromkeys([*IDS, "9"], PAIR), "a.json:9: id '9' is of no item"),
    ("a.json", dict.fromkeys(IDS, "a"), "1 captions, captioner.n is 2: give --captioner.n 1"),
    ("a.json", dict.fromkeys(IDS, ["a", "a"]), "each item has one caption, again and again"),
    ("a.json", {"17": 3}, "a.json:17: captions: expected a text or a list of texts, got 3"),
    ("a.json", "text", "expected a list of records, or an object"),
    ("a.jsonl", [{"id": n, "captions": PAIR} for n in (*IDS, "17")],
     "a.jsonl:3: captions of '17' are there twice, first in"),
    ("a.jsonl", [{"id": "17"}], "a.jsonl:1: it has none of"),
    ("a.jsonl", [7], "a.jsonl:1: expected an object with"),
    ("a.jsonl", [{"original_sample": {"prompt": "?"}, "generated_captions": PAIR}],
     "a.jsonl:1: the sample is of no item"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "problem"), BAD)
def test_what_does_not_fit_is_named(name, value, problem, annotations, tmp_path) -> None:
    with pytest.raises(DataError) as error:
        read(annotations, write(tmp_path / name, value))
    assert problem in str(error.value)


def test_an_id_that_an_object_has_twice_is_not_lost(annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"17": ["a", "b"], "17": ["c", "d"]}')
    with pytest.raises(DataError, match="'17' is there twice"):
        read(annotations, tmp_path / "a.json")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(annotations, tmp_path / "b.json")
