"""Results in the reference's files, or published, as a run to compare with.

They record neither rule nor reader nor judge: that these were the same is the reader's to know, and
the tables say so.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caprl_native.config.cli import ConfigError
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Benchmark
from eval.items import Item
from eval.plan import LoadedBenchmark
from eval.records import pair
from eval.report.files import Record
from eval.report.published import is_published, published, reference_files
from eval.report.reference import TAGS

_IMAGE = re.compile(r"Prism_(?P<tag>.+)_step_(?P<kind>details|eval)_(?P<step>\d+)_final\.json")
_VIDEO = re.compile(r"prism_(?P<tag>.+)_(?P<kind>details|summary)_step(?P<step>\d+)\.json")
_FIGURES = re.compile(r"BoN:\s*(\S+)\s+Mean:\s*(\S+)")
_NAMES = {tag.lower(): name for name, tag in TAGS.items()}
NOT_RECORDED = "rule, reader and judge are not recorded: differences hold if they are the same"
OF_MEANS = "differences are of means, not item by item"
Figures = dict[str, Any]  # `best` and `mean` in shares, `n`, `rows`: (sample, scores, texts, said)


def read_reference(
    name: str, loaded: Sequence[LoadedBenchmark], ours: Sequence[Record]
) -> tuple[Record, list[Record]]:
    """Summary and items of a run of the reference, items as `ours` have them.

    Raises ConfigError for files that are none of the reference's, or damaged.
    """
    if is_published(name):
        title, parts = published(name)
        return _summary(title, parts, "caprl", f"published figures; {OF_MEANS}"), []
    found: dict[str, Figures] = {}
    steps: set[str] = set()
    for path in reference_files(name):
        match = _IMAGE.fullmatch(path.name) or _VIDEO.fullmatch(path.name)
        if match is None:
            raise _error(path, "expected Prism_<tag>_step_details_<N>_final.json or its like")
        steps.add(match["step"])
        benchmark = _benchmark(path, match["tag"])
        read = _figures(path, match["kind"], video=match.re is _VIDEO)
        # A file of details says more than one of figures.
        if benchmark not in found or "rows" in read:
            found[benchmark] = read
    if len(steps) > 1:
        raise ConfigError(
            f"report.compare: {name} holds steps {', '.join(sorted(steps, key=int))}; "
            "give the files of one"
        )
    path = Path(name)
    title = f"{(path if path.is_dir() else path.parent).resolve().name} step {steps.pop()}"
    items = [
        record
        for part in loaded
        if "rows" in found.get(part.benchmark.name, {})
        for record in _items(part, found[part.benchmark.name]["rows"], ours)
    ]
    note = NOT_RECORDED if items else f"{NOT_RECORDED}; {OF_MEANS}"
    return _summary(title, found, None, note), items


def _error(path: Path, problem: str) -> ConfigError:
    return ConfigError(f"report.compare: {path}: {problem}")


def _benchmark(path: Path, tag: str) -> str:
    name = _NAMES.get(tag.lower(), tag)
    if name not in benchmarks():
        raise _error(path, f"{tag!r} is no benchmark's tag; known: {', '.join(TAGS.values())}")
    return name


# --- files ------------------------------------------------------------------------------------


def _figures(path: Path, kind: str, video: bool) -> Figures:
    try:
        value = json.loads(path.read_text("utf-8"))
        if kind == "details":
            return _of_details(value, _video_row if video else _image_row)
        if video:
            return {"best": float(value["BoN"]), "mean": float(value["M_Acc"]), "n": None,
                    "items": int(value["num_samples"])}  # fmt: skip
        match = _FIGURES.search(value[0])
        if match is None:
            raise ValueError('expected ["BoN: x Mean: y"]')
        return {"best": float(match[1]), "mean": float(match[2]), "n": None}
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise _error(
            path, f"none of the reference's files: {type(error).__name__}: {error}"
        ) from error


def _of_details(value: Any, read: Any) -> Figures:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of rows")
    rows = []
    for number, row in enumerate(value, 1):
        try:
            rows.append(read(row))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"row {number}: {type(error).__name__}: {error}") from error
    scores = [scores for _, scores, _ in rows]
    return {
        "best": statistics.fmean(max(s) for s in scores),
        "mean": statistics.fmean(statistics.fmean(s) for s in scores),
        "n": max(len(s) for s in scores),
        "items": len(rows),
        "rows": rows,
    }


def _image_row(row: Any) -> tuple[Any, list[float], list[Record]]:
    """Sample, scores, and captions as our items have them, of [sample, rewards, ...]."""
    sample, rewards, understood, lengths, texts = row
    scores = [float(r) for r in rewards]
    n = len(scores)
    if not n or len(understood) != n or len(lengths) != n or len(texts) != 2 * n:
        raise ValueError(f"{n} rewards, {len(understood)} answers, {len(texts)} texts")
    made = zip(texts[:n], texts[n:], scores, understood, lengths, strict=True)
    return sample, scores, [_caption(*parts) for parts in made]


def _video_row(row: Any) -> tuple[Any, list[float], list[Record]]:
    scores = [float(s) for s in row["scores"]]
    captions, responses = row["captions"], row["responses"]
    if not scores or not len(scores) == len(captions) == len(responses):
        raise ValueError(f"{len(scores)} scores of {len(captions)} captions")
    made = zip(captions, responses, scores, strict=True)
    return row["sample"], scores, [_caption(*parts, None, None) for parts in made]


def _caption(text: str, answer: str, score: float, said: str | None, tokens: int | None) -> Record:
    return {
        "text": text,
        "tokens": None,
        "finish": None,
        "missing": None,
        "answer": {"text": answer, "tokens": tokens, "missing": None},
        "verdict": {"score": score, "said": said, "detail": {}},
        "judge": None,
    }


# --- as a run ---------------------------------------------------------------------------------


def _items(
    loaded: LoadedBenchmark,
    rows: Sequence[tuple[Any, list[float], list[Record]]],
    ours: Sequence[Record],
) -> list[Record]:
    """Our records with the captions and scores of the rows that are of the same samples."""
    benchmark = loaded.benchmark
    known = {r["id"]: r for r in ours if r["benchmark"] == benchmark.name}
    items: dict[int, Item] = pair([sample for sample, _, _ in rows], loaded.items)
    found = []
    for number, item in items.items():
        _, scores, captions = rows[number]
        points = [_scaled(benchmark, score) for score in scores]
        for caption, score in zip(captions, points, strict=True):
            caption["verdict"]["score"] = score
        mean, best = statistics.fmean(points), max(points)
        found.append({**known[item.id], "captions": captions, "mean": mean, "best": best})
    return found


def _scaled(benchmark: Benchmark, share: float) -> float:
    """A share as we count it: the reference has points in shares, too."""
    return share * benchmark.full if benchmark.unit == "points" else share


def _summary(title: str, found: Mapping[str, Figures], rule: str | None, note: str) -> Record:
    return {
        "run": title,
        "captioner": None,
        "reader": None,
        "judge": None,
        "reader_key": None,
        "judge_key": None,
        "rule": rule,
        "note": note,
        "complete": True,
        "missing": {},
        "benchmarks": {name: _part(benchmarks()[name], part) for name, part in found.items()},
    }


def _part(benchmark: Benchmark, part: Figures) -> Record:
    factor = 100.0 if benchmark.unit == "%" else benchmark.full
    return {
        **benchmark.described(),
        "judged": False,
        "items": part.get("items"),
        "scored": part.get("items"),
        "missing": {},
        "mean": part["mean"] * factor,
        "mean_ci": None,
        "best": part["best"] * factor,
        "best_ci": None,
        "n": part["n"],
        "caption_tokens": None,
        "caption_characters": None,
        "metrics": {},
        "groups": {},
        "broken": [],
    }
