"""The rows of a certificate, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caprl_native.messages import cut


@dataclass(frozen=True)
class Row:
    """One figure of a check on a case, which passes where it is no more than its bound.

    `problem`: why there is none; such a row fails. `note`: why a figure above the bound is right.
    """

    check: str
    case: str
    what: str
    figure: float = math.nan
    bound: float = 0.0
    problem: str = ""
    note: str = ""

    @property
    def passed(self) -> bool:
        if self.problem or math.isnan(self.figure):
            return False
        return bool(self.note) or self.figure <= self.bound

    @property
    def verdict(self) -> str:
        if self.passed:
            return "known" if self.figure > self.bound else "ok"
        return "FAIL"


def table(rows: Sequence[Row]) -> str:
    """Aligned columns, one line per row; problems and notes under it."""
    head = ("check", "case", "compared", "figure", "bound", "verdict")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    for row in rows:
        if row.problem or (row.note and row.verdict == "known"):
            text.append(f"{row.check}, {row.case}: {row.problem or row.note}")
    failed = sum(not row.passed for row in rows)
    text.append(f"{failed} of {len(rows)} rows fail" if failed else f"all {len(rows)} rows pass")
    return "\n".join(line.rstrip() for line in text)


def _cells(row: Row) -> tuple[str, ...]:
    figure = "-" if row.problem else _number(row.figure)
    return row.check, row.case, cut(row.what), figure, _number(row.bound), row.verdict


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1e}"
