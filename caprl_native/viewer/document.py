"""The page of a run: its template, and the file that holds a whole run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from caprl_native.observe.page.document import (
    filled,
    json_safe,
    json_text,
    shared,
    template,
    write_page,
)
from caprl_native.observe.pictures import Pictures
from caprl_native.viewer.run import Run

_PAGE = Path(__file__).with_name("page")
_SHARED = shared("elements.js", "search.js", "rows.js", "times.js", "browsing.js")
_SCRIPTS = ("source", "runs", "curves", "groups", "list", "evidence", "diff", "group", "events")


def page() -> str:
    """The page without data."""
    return template(
        _PAGE / "page.html",
        styles=[*shared("theme.css", "base.css"), _PAGE / "page.css"],
        scripts=[*_SHARED, *(_PAGE / f"{name}.js" for name in _SCRIPTS)],
    )


def live_page(runs: Sequence[Run]) -> str:
    """The page that asks its server for all but the names of the runs."""
    parts = {"RUNS": [_about(runs, live=True)], "NEWS": ["null"], "GROUPS": [""], "PICTURES": [""]}
    return "".join(filled(page(), parts, asks=True))


def _about(runs: Sequence[Run], *, live: bool) -> str:
    return json_text({"live": live, "runs": [run.about() for run in runs]})


def write_export(path: Path, runs: Sequence[Run], mib: float) -> tuple[int, int]:
    """Writes runs as one file. Returns how many groups it holds whole, and how many there are.

    All metrics and the numbers of all captions are in it; captions, evidence and pictures of as
    many groups as fit into `mib`, every step's in turn, so that no step lacks its first ones.
    """
    for run in runs:
        run.refresh()
        while run.left:
            run.refresh()
    kept = _Kept(runs, mib)
    parts = {
        "RUNS": [_about(runs, live=False)],
        "NEWS": _news(runs),
        "GROUPS": kept.groups(),
        "PICTURES": kept.pictures(),
    }
    write_page(path, page(), parts)
    return kept.count, sum(len(step.lines) for run in runs for step in run.steps)


def _news(runs: Sequence[Run]) -> Iterator[str]:
    for i, run in enumerate(runs):
        yield ",\n" if i else "["
        yield from (json_safe(piece) for piece in run.news([]))
    yield "]"


class _Kept:
    """The groups that go into the file, a line each: their key, a tab, their records as JSON."""

    def __init__(self, runs: Sequence[Run], mib: float) -> None:
        self.runs, self.room, self.count = runs, int(mib * 2**20), 0
        self._drawn = Pictures()
        self._media: dict[str, str] = {}

    def groups(self) -> Iterator[str]:
        for run, kind, step, number in self._in_turn():
            records = self.runs[run].find(kind, step).group(number)
            media = self._media_of(records[0])
            line = json_text({"records": records, "media": media})
            self.room -= len(line.encode())
            if self.room < 0:
                return
            self.count += 1
            yield f"\n{run}/{kind}/{step}/{number}\t{line}"

    def _media_of(self, record: dict[str, object]) -> str:
        """The key of the group's pictures, which all groups of a sample share."""
        key = json_text([record["media"], record.get("media_refs")])
        if key not in self._media:
            drawn = json_text(self._drawn.of(record))
            self._media[key] = drawn
            self.room -= len(drawn)
        return key

    def pictures(self) -> Iterator[str]:
        for i, (key, drawn) in enumerate(self._media.items()):
            yield f"{',' if i else '{'}\n{json_text(key)}:{drawn}"
        yield "}" if self._media else "{}"

    def _in_turn(self) -> Iterator[tuple[int, str, int, int]]:
        """The first group of each step, then the second of each, ...; the last step comes first."""
        steps = [(i, step) for i, run in enumerate(self.runs) for step in run.steps]
        steps.sort(key=lambda pair: -pair[1].step)
        most = max((len(step.lines) for _, step in steps), default=0)
        for number in range(most):
            for i, step in steps:
                if number < len(step.lines):
                    yield i, step.kind, step.step, number
