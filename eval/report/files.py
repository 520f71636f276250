"""What a run leaves: items.jsonl, summary.json, table.md, report.html, the reference's files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprl_native.config.cli import ConfigError
from caprl_native.files import atomic_write
from eval.scoring.stats import paired_interval

Record = dict[str, Any]


def write_text(path: Path, text: str) -> None:
    """Writes the file whole or not at all."""
    with atomic_write(path) as file:
        file.write(text)


def write_lines(path: Path, found: Iterable[Record]) -> None:
    """A JSON line for each record, whole or not at all."""
    with atomic_write(path) as file:
        file.writelines(json.dumps(record) + "\n" for record in found)


def read_run(folder: Path) -> tuple[Record, list[Record]]:
    """Summary and items of another run. Raises ConfigError where there are none."""
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
        if not isinstance(summary, dict) or not isinstance(summary.get("benchmarks"), dict):
            raise ValueError("summary.json is no summary of a run")
        items = []
        for number, line in enumerate((folder / "items.jsonl").read_bytes().splitlines(), 1):
            items.append(_item(line, number))
        return summary, items
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"report.compare: {folder}: expected the folder of a finished run: {error}"
        ) from error


def _item(line: bytes, number: int) -> Record:
    """The item of a line. Raises ValueError for a line that holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"items.jsonl:{number}: a damaged line ({error})") from error
    needed = {"benchmark", "id", "question", "answer", "mean", "media", "captions"}
    if not isinstance(record, dict) or not needed <= record.keys():
        raise ValueError(f"items.jsonl:{number}: no item of a run")
    return record


def compared(
    summary: Record,
    ours: Sequence[Record],
    other: Record,
    theirs: Sequence[Record],
    confidence: float,
) -> Record:
    """The other run's summary, with the mean difference (theirs - ours) over items in both.

    Where answers were read, judged or scored in another way there is none, but the reason.
    """
    mine = {(r["benchmark"], r["id"]): r for r in ours if r["mean"] is not None}
    found = {**other, "benchmarks": {k: dict(v) for k, v in other["benchmarks"].items()}}
    for name, part in found["benchmarks"].items():
        if reason := _incomparable(summary, other, name):
            part["incomparable"] = reason
            continue
        pairs = [
            (mine[key], r)
            for r in theirs
            if r["mean"] is not None
            and (key := (r["benchmark"], r["id"])) in mine
            and r["benchmark"] == name
            and _asked(mine[key]) == _asked(r)
        ]
        if not pairs:
            if not any(r["benchmark"] == name for r in theirs):
                _difference_of_means(part, summary["benchmarks"].get(name))
            continue
        factor = 100.0 if part["unit"] == "%" else 1.0
        a = [r["mean"] * factor for r, _ in pairs]
        b = [r["mean"] * factor for _, r in pairs]
        clusters = [tuple(m["path"] for m in r["media"]) for r, _ in pairs]
        interval = None
        part["difference"] = statistics.fmean(b) - statistics.fmean(a)
        if len(set(clusters)) > 1:
            interval = list(paired_interval(b, a, confidence, clusters=clusters))
        part["difference_ci"] = interval
        part["items_in_both"] = len(pairs)
    return found


def _difference_of_means(part: Record, ours: Record | None) -> None:
    """Of a run that has figures alone."""
    if ours is not None and ours["mean"] is not None and part["mean"] is not None:
        part |= {"difference": part["mean"] - ours["mean"], "difference_ci": None}


def with_others(ours: Iterable[Record], others: Sequence[Sequence[Record]]) -> Iterator[Record]:
    """Our items with the other runs' captions of them, for the page: under `others`, by run.

    Runs are numbered from 1, as in the list of all runs; those that lack an item are left out.
    """
    known = [{(r["benchmark"], r["id"]): r for r in items} for items in others]
    for record in ours:
        theirs = [items.get((record["benchmark"], record["id"])) for items in known]
        found = [
            {"run": number, "captions": r["captions"]}
            for number, r in enumerate(theirs, 1)
            if r is not None and _asked(r) == _asked(record)
        ]
        yield {**record, "others": found}


def _incomparable(summary: Record, other: Record, name: str) -> str | None:
    """Why a difference between the two would not be one of their captions.

    What another evaluation's files do not record (None) is taken for the same.
    """
    parts = [s["benchmarks"].get(name, {}) for s in (summary, other)]
    judged = any(part.get("judged") for part in parts)
    read = all(part.get("read", True) for part in parts)
    compared_by = {
        "rule": (summary["rule"], other.get("rule")),
        "reader": (summary["reader_key"], other.get("reader_key")) if read else (None, None),
        "judge": (summary["judge_key"], other.get("judge_key")) if judged else (None, None),
    }
    found = [what for what, (a, b) in compared_by.items() if b is not None and a != b]
    return f"not the same {' and '.join(found)}" if found else None


def _asked(record: Record) -> str:
    """Question and gold: an id may be a line's number, and files change."""
    return json.dumps([record["question"], record["answer"]])


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """A row per benchmark, the runs side by side; the first is the run itself."""
    names = list(dict.fromkeys(name for s in summaries for name in s["benchmarks"]))
    head = ["benchmark", "metric"]
    for s in summaries:
        n = max((part["n"] or 0 for part in s["benchmarks"].values()), default=1)
        head += [s["run"], f"best of {n or 'n'}", "items", "missing", "tokens"]
        head += [f"{s['run']} - {summaries[0]['run']}"] if s is not summaries[0] else []
    rows = []
    for name in names:
        about = next(s["benchmarks"][name] for s in summaries if name in s["benchmarks"])
        cells = [about["title"], f"{about['metric']}{' (%)' if about['unit'] == '%' else ''}"]
        for s in summaries:
            part = s["benchmarks"].get(name)
            cells += _cells(part) if part else ["-"] * 5
            if s is not summaries[0]:
                why = (part or {}).get("incomparable")
                cells.append(why or _interval(part or {}, "difference", signed=True))
        rows.append(cells)
    lines = [head, ["---"] * len(head), *rows]
    notes = [_note(s) for s in summaries]
    notes += [note for s in summaries for note in _headlines(s)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return text + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _note(s: Mapping[str, Any]) -> str:
    """How a run's figures came about."""
    if note := s.get("note"):
        return f"{s['run']}: {note}"
    direct = s.get("mode") == "direct"
    made = (
        f"answers by {s['captioner']}, which sees the media"
        if direct
        else f"captions by {s['captioner']}, {_read_by(s)}"
    )
    repeats = [p["repeats"]["n"] for p in s["benchmarks"].values() if p.get("repeats")]
    spread = f"; ±: standard deviation over {repeats[0]} judgements" if repeats else ""
    rest = "" if s["complete"] else "; incomplete: means are over what is there"
    return f"{s['run']}: {made}, rule {s['rule']}{spread}{rest}"


def _headlines(s: Mapping[str, Any]) -> Iterator[str]:
    """What papers report of a benchmark beside the mean over its items."""
    for part in s["benchmarks"].values():
        names = [name for name in part.get("headline", ()) if name in part.get("metrics", {})]
        spread = (part.get("repeats") or {}).get("metrics_std", {})
        told = [
            f"{name} {part['metrics'][name]:.2f}"
            + (f" ± {spread[name]:.2f}" if name in spread else "")
            for name in names
        ]
        if told:
            yield f"{s['run']}, {part['title']}: {', '.join(told)}"


def _read_by(s: Mapping[str, Any]) -> str:
    judges = [part.get("read") is False for part in s["benchmarks"].values()]
    judged = f"judged by {s['judge']}" if any(judges) else ""
    read = f"read by {s['reader']}" if s["reader"] else ""
    return " and ".join(filter(None, [read, judged])) or "judged by none"


def _cells(part: Mapping[str, Any]) -> list[str]:
    missing = {k: v for k, v in part["missing"].items() if v}
    tokens, known = part["caption_tokens"], part["items"] is not None
    repeats = part.get("repeats")
    return [
        _interval(part, "mean") + (f" ± {repeats['std']:.1f}" if repeats else ""),
        _interval(part, "best"),
        str(part["items"]) if known else "-",
        "-" if not known else ", ".join(f"{v} {k}" for k, v in missing.items()) or "0",
        "-" if tokens is None else f"{tokens:.0f}",
    ]


def _interval(part: Mapping[str, Any], name: str, signed: bool = False) -> str:
    if part.get(name) is None:
        return "-"
    form = "+.1f" if signed else ".1f"
    if part[f"{name}_ci"] is None:
        return f"{part[name]:{form}}"
    low, high = part[f"{name}_ci"]
    return f"{part[name]:{form}} ({low:{form}} to {high:{form}})"
