"""report.json, report.md and report.html of a curation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from caprl_native.curation.config import CurationConfig
from caprl_native.curation.report_html import page
from caprl_native.curation.tally import Tally
from caprl_native.data.media import MediaError, decode
from caprl_native.files import atomic_write
from caprl_native.inference.pictures import thumbnail
from caprl_native.types import MediaRef, Sample

_MOST_PICTURES = 40


def write_report(folder: Path, tally: Tally, config: CurationConfig) -> None:
    """All three; the page only where the settings wish it."""
    with atomic_write(folder / "report.json") as file:
        json.dump(tally.figures() | {"examples": tally.examples}, file, indent=1)
    with atomic_write(folder / "report.md") as file:
        file.write(markdown(tally, config))
    if config.run.html:
        text = page(tally, config.run.name, _pictures(tally, config))
        with atomic_write(folder / "report.html") as file:
            file.write(text)


def markdown(tally: Tally, config: CurationConfig) -> str:
    """The figures as tables; nothing that a model wrote stands in it."""
    parts = [f"# Curation: {config.run.name}", _table(("step", "count"), tally.steps())]
    for title, counts in (
        ("Inputs that failed", tally.failed),
        ("Questions rejected", tally.rejected),
        ("Verdicts", tally.verdicts),
    ):
        if counts:
            found = [(_cell(reason), n) for reason, n in counts.most_common()]
            parts += [f"## {title}", _table(("reason", "count"), found)]
    if tally.rounds:
        size = range(tally.rounds + 1)
        head = ("right with the media", *(f"{t} without" for t in size))
        grid = [(v, *(tally.pairs[v, t] for t in size)) for v in size]
        parts += [f"## Right of {tally.rounds} rounds", _table(head, grid)]
    letters = sorted({*tally.letters_before, *tally.letters_after})
    both = [(x, tally.letters_before[x], tally.letters_after[x]) for x in letters]
    parts += ["## Right letters", _table(("letter", "as written", "in the output"), both)]
    per_row = sorted(tally.per_row.items())
    parts += ["## Questions per row", _table(("questions", "rows"), per_row)]
    if tally.of_videos:
        parts.append(
            f"{tally.ordered:,} of {tally.of_videos:,} questions on videos speak of order or time."
        )
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines: list[Sequence[object]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _pictures(tally: Tally, config: CurationConfig) -> dict[str, str]:
    """Small pictures of the examples' media, as data URIs by path; of files alone, and not many."""
    found: dict[str, str] = {}
    for its in tally.examples.values():
        for example in its:
            for about in example["media"]:
                path = about.get("path")
                if path and path not in found and len(found) < _MOST_PICTURES:
                    medium = MediaRef(**about)
                    try:
                        (decoded,) = decode(Sample(path, (medium,), ()), config.media)
                    except MediaError:
                        continue
                    found[path] = thumbnail(decoded)
    return found
