"""What a file of captions holds, group by group: where each stands, and the numbers to find it by.

The log writes one such index beside each of its files (`index/rollouts/step_000001.jsonl` for
`rollouts/step_000001.jsonl`), so that whoever looks at a run need not read all of it. Nothing here
imports torch.

The first line is `{"version", "size", "groups"}`, `size` being that of the file of captions in
bytes; then a line per group, in the file's order:

    id, at, bytes   the sample, and where the group's lines are in the file
    kind            of its first medium: "image", "video", "" without any
    total, advantage, tokens   by caption; a total is null where the reward is missing
    cut, failed     places of the captions that hit the length limit, and that have no reward
    values          by name, by caption: rewards, what they are made of, figures of captions
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

VERSION = 1
FOLDERS = ("rollouts", "eval", "blind")  # of files of captions, within a run's
MOST_VALUES = 24  # names of numbers that a group's line has; the record has all
_DIGITS = 4
_VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv")

Record = dict[str, Any]


def index_file(run: Path, name: str) -> Path:
    """The index of a file of captions, `rollouts/step_000001.jsonl`, say."""
    return run / "index" / name


def index_text(records: Sequence[Record], lines: Sequence[str]) -> str:
    """The index of these records, which are written as these lines, ends of lines included."""
    sizes = [len(line.encode()) for line in lines]
    groups = list(_groups(zip(records, sizes, strict=True)))
    head = {"version": VERSION, "size": sum(sizes), "groups": len(groups)}
    return "".join(_line(value) for value in (head, *groups))


def index_of_file(file: Path) -> bytes:
    """The index of a file of captions that has none. A last line that a kill has cut is left out.

    Raises ValueError for a line that is no record.
    """

    def read() -> Iterator[tuple[Record, int]]:
        with file.open("rb") as opened:
            for line in opened:
                if line.endswith(b"\n"):
                    yield json.loads(line), len(line)

    groups = list(_groups(read()))
    head = {"version": VERSION, "size": file.stat().st_size, "groups": len(groups)}
    return "".join(_line(value) for value in (head, *groups)).encode()


def read_index(run: Path, name: str) -> bytes | None:
    """The index of a file of captions as it was written; None where it is missing, or of another
    state of the file."""
    index, file = index_file(run, name), run / name
    if not index.is_file() or index.stat().st_mtime_ns < file.stat().st_mtime_ns:
        return None
    data = index.read_bytes()
    try:
        head = json.loads(data[: data.index(b"\n") + 1])
        fits = head["version"] == VERSION and head["size"] == file.stat().st_size
    except (ValueError, KeyError, TypeError):
        return None
    return data if fits and data.count(b"\n") == head["groups"] + 1 else None


def media_refs(record: Record) -> list[Record]:
    """How the media of a record are opened; of a log of an earlier version, as their names look."""
    known: list[Record] | None = record.get("media_refs")
    return known or [
        {"kind": "video" if name.lower().endswith(_VIDEOS) else "image"} for name in record["media"]
    ]


def _line(value: Record) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _groups(sized: Iterable[tuple[Record, int]]) -> Iterator[Record]:
    """A group's captions follow each other; the next group is another sample's, or begins anew."""
    at, held, start = 0, list[Record](), 0
    for record, size in sized:
        if held and not _goes_on(held[-1], record):
            yield _group(held, start, at - start)
            held, start = [], at
        held.append(record)
        at += size
    if held:
        yield _group(held, start, at - start)


def _goes_on(before: Record, record: Record) -> bool:
    return record["id"] == before["id"] and record["rollout"] > before["rollout"]


def _group(records: Sequence[Record], at: int, size: int) -> Record:
    refs = media_refs(records[0])
    return {
        "id": records[0]["id"],
        "at": at,
        "bytes": size,
        "kind": refs[0]["kind"] if refs else "",
        "total": [_rounded(r["total"]) for r in records],
        "advantage": [_rounded(r["advantage"]) for r in records],
        "tokens": [r["tokens"] for r in records],
        "cut": [i for i, r in enumerate(records) if r["finish_reason"] == "length"],
        "failed": [i for i, r in enumerate(records) if r["failure"]],
        "values": _values(records),
    }


def _values(records: Sequence[Record]) -> dict[str, list[float | None]]:
    each = [r["rewards"] | r["parts"] | r.get("figures", {}) for r in records]
    names = list(dict.fromkeys(name for values in each for name in values))[:MOST_VALUES]
    return {name: [_rounded(values.get(name)) for values in each] for name in names}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
