"""The page: one file without a script. All that a model or a file wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from caprl_native.curation.tally import Tally
from caprl_native.observe.page.document import filled, shared
from caprl_native.observe.page.document import markup_text as _text

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="@@POLICY@@">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@TITLE@@</title>
<style>
@@STYLE@@</style>
</head>
<body>
@@BODY@@
</body>
</html>
"""
_STYLE = """
body { max-width: 1100px; margin: 0 auto; padding: 16px 24px; }
table { border-collapse: collapse; background: var(--panel); }
td, th { padding: 3px 10px; border: 1px solid var(--line); text-align: right; }
td:first-child, th:first-child { text-align: left; }
.charts { display: flex; flex-wrap: wrap; gap: 24px; margin-bottom: 12px; }
figcaption { color: var(--muted); } rect { fill: var(--accent); }
text { fill: var(--ink); font-size: 11px; }
.example { display: flex; gap: 12px; margin: 8px 0; padding: 8px; background: var(--panel);
  border: 1px solid var(--line); } .example img { max-width: 160px; max-height: 120px; }
h1, h2, h3 { margin: 18px 0 8px; }
"""


def page(tally: Tally, name: str, pictures: Mapping[str, str]) -> str:
    """The whole document. `pictures`: data URIs by the paths of media."""
    body = [
        f"<h1>Curation: {_text(name)}</h1>",
        "<h2>Yield</h2>",
        _table(("step", "count"), tally.steps()),
        "<h2>Accuracy of questions</h2>",
        '<div class="charts">',
        _bars("with the media", _by_round(tally, 0)),
        _bars("without the media", _by_round(tally, 1)),
        "</div>",
        _grid(tally),
        "<h2>Right letters</h2>",
        '<div class="charts">',
        _bars("as written", sorted(tally.letters_before.items())),
        _bars("in the output", sorted(tally.letters_after.items())),
        _bars("questions per row", [(str(k), n) for k, n in sorted(tally.per_row.items())]),
        "</div>",
        *_counts("Inputs that failed", tally.failed.most_common()),
        *_counts("Questions rejected", tally.rejected.most_common()),
        *_counts("Verdicts", tally.verdicts.most_common()),
        *_examples(tally, pictures),
    ]
    title = f"Curation: {_text(name)}"
    style = shared("theme.css")[0].read_text("utf-8") + _STYLE
    parts = {"TITLE": [title], "BODY": ["\n".join(body)]}
    return "".join(filled(_PAGE.replace("@@STYLE@@", style), parts))


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_shown(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _shown(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else _text(cell)


def _counts(title: str, counts: Sequence[tuple[str, int]]) -> list[str]:
    return [f"<h2>{title}</h2>", _table(("reason", "count"), counts)] if counts else []


def _by_round(tally: Tally, place: int) -> list[tuple[str, int]]:
    return [(f"{i}/{tally.rounds}", n) for i, n in enumerate(tally.histogram(place))]


def _bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    """A histogram as inline SVG."""
    width, height, most = 46 * max(1, len(counts)), 130, max([n for _, n in counts] or [0]) or 1
    parts = []
    for i, (label, count) in enumerate(counts):
        tall = round(90 * count / most)
        x = 46 * i
        parts.append(
            f'<rect x="{x + 4}" y="{110 - tall}" width="38" height="{tall}"/>'
            f'<text x="{x + 23}" y="{105 - tall}" text-anchor="middle">{count:,}</text>'
            f'<text x="{x + 23}" y="125" text-anchor="middle">{_text(label)}</text>'
        )
    svg = f'<svg width="{width}" height="{height}" role="img" aria-label="{_text(title)}">'
    return f"<figure>{svg}{''.join(parts)}</svg><figcaption>{_text(title)}</figcaption></figure>"


def _grid(tally: Tally) -> str:
    """Right rounds with the media by right rounds without."""
    if not tally.rounds:
        return ""
    size = range(tally.rounds + 1)
    rows = [(f"{v} right with the media", *(tally.pairs[v, t] for t in size)) for v in size]
    return _table((f"of {tally.rounds} rounds", *(f"{t} without" for t in size)), rows)


def _examples(tally: Tally, pictures: Mapping[str, str]) -> list[str]:
    parts = ["<h2>Examples</h2>"] if tally.examples else []
    for reason, its in tally.examples.items():
        parts.append(f"<h3>{_text(reason)}</h3>")
        for example in its:
            paths = [m.get("path", "") for m in example["media"]]
            found = [pictures[path] for path in paths if path in pictures]
            images = "".join(f'<img alt="" src="{_text(uri)}">' for uri in found)
            name, text = _text(example["id"]), _text(example["text"])
            shown = f'<div class="verbatim" dir="auto">{text}</div>'
            said = f'<div><div class="muted">{name}</div>{shown}</div>'
            parts.append(f'<div class="example">{images}{said}</div>')
    return parts
