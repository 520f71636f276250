"""Verdicts of the caption benchmarks that were worked out by hand from their authors' rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from caprl_native.data.choices import LETTERS
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files, Row
from eval.items import Item, Verdict
from eval.scoring.autodq import autodq, entailed, f1_of, read_events, read_relations
from eval.scoring.capability import capability_metrics
from eval.scoring.vcapsbench import Outcome, rates
from eval.scoring.vdc import Grade, read_grade, vdc_scores

GOLDEN = Path(__file__).parents[1] / "golden" / "captions"
Case = dict[str, Any]
RELATIONS = {"e": "entailment", "n": "neutral", "c": "contradiction"}
OUTCOMES: dict[str, Outcome] = {"r": "right", "w": "wrong", "u": "unanswerable"}


def cases(name: str) -> list[Any]:
    found = map(json.loads, (GOLDEN / f"{name}.jsonl").read_text().splitlines())
    return [pytest.param(case, id=case["id"]) for case in found]


def item_of(name: str, record: Case) -> Item:
    """The first item of a record."""
    row = Row(record, "golden:1", Path("golden.jsonl"))
    found = benchmarks()[name].item(row, Files((), Path("media")))
    first = found if isinstance(found, Item) else found[0]
    assert isinstance(first, Item)
    return first


def judged(name: str, item: Item, reply: str) -> Verdict | None:
    found = benchmarks()[name].judged(item, "A caption.", reply)
    assert found is None or isinstance(found, Verdict)
    return found


def check(found: dict[str, float], case: Case, *names: str) -> None:
    for name in names:
        assert found.get(name) == (None if case[name] is None else pytest.approx(case[name])), name


def test_each_has_thirty_cases_and_more() -> None:
    for name in ("captionqa", "vcapsbench", "dream1k", "vdc", "capability"):
        found = [param.values[0]["id"] for param in cases(name)]
        assert len(set(found)) == len(found) >= 30, name


@pytest.mark.parametrize("case", cases("captionqa"))
def test_captionqa(case: Case) -> None:
    record = {k: case[k] for k in ("question", "choices", "answer")}
    item = item_of("captionqa", {"id": "nat_001", "questions": [record]})
    shown = dict(zip(item.choices, LETTERS, strict=False))
    assert len(item.choices) == case.get("offered", len(case["choices"]) + 1)
    reply = re.sub(r"\{(.*?)\}", lambda text: shown[text[1]], case["reply"])
    verdict = judged("captionqa", item, reply)
    assert (verdict and verdict.score) == (case["expected"] and pytest.approx(case["expected"]))
    assert (verdict is None) == (case["expected"] is None)


@pytest.mark.parametrize("case", cases("vcapsbench"))
def test_vcapsbench(case: Case) -> None:
    if "outcomes" in case:
        check(rates([OUTCOMES[o] for o in case["outcomes"]]), case, "AR", "IR", "CR")
        return
    item = item_of("vcapsbench", {"video_id": "1", "qa": [f"action*Is it so?*{case['gold']}"]})
    verdict = judged("vcapsbench", item, case["reply"])
    assert (verdict and verdict.detail["outcome"]) == case["expected"]
    assert verdict is None or verdict.score == (case["expected"] == "right")


@pytest.mark.parametrize("case", cases("dream1k"))
def test_dream1k(case: Case) -> None:
    if "events" in case:
        assert read_events(case["events"]) == case["expected"]
    elif "relations" in case:
        wanted = case["expected"] and [RELATIONS[letter] for letter in case["expected"]]
        assert read_relations(case["relations"], case["count"]) == wanted
    elif "parts" in case:
        check(autodq(tuple(p) for p in case["parts"]), case, "recall", "precision", "F1")
    else:
        recall, precision = (
            entailed([RELATIONS[letter] for letter in case[side]]) for side in ("gold", "told")
        )
        found = {"recall": recall, "precision": precision, "f1": f1_of(recall, precision)}
        check(found, case, *found)


@pytest.mark.parametrize("case", cases("vdc"))
def test_vdc(case: Case) -> None:
    if "grades" in case:
        grades = [(kind, video, Grade(m, s)) for kind, video, m, s in case["grades"]]
        check(vdc_scores(grades), case, "VDCscore", "accuracy")
    else:
        grade = read_grade(case["reply"])
        assert grade == (case["expected"] and Grade(*case["expected"]))


@pytest.mark.parametrize("case", cases("capability"))
def test_capability(case: Case) -> None:
    if "verdicts" in case:
        pairs = [(name, verdict) for name, of in case["verdicts"].items() for verdict in of]
        check(capability_metrics(pairs), case, "precision", "hit", "recall", "F1")
        return
    about = {"task": case.get("task", "scene"), "annotation": case.get("gold", "a beach")}
    record = {"file_id": "1", "file_path": "data/1.jpg", "data_type": "image", **about}
    verdict = judged("capability", item_of("capability", record), case["reply"])
    assert (verdict and verdict.detail["verdict"]) == case["expected"]
    assert verdict is None or verdict.score == (case["expected"] == 1)
