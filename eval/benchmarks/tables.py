"""Rows of TSV and CSV files, those included whose quotes are not meant as any.

A field is quoted where it begins with a quote and the quote that closes it (a doubled one does not)
stands before a separator or a line's end: then separators and line ends inside belong to it. Any
other quote is a character like others. Python's csv module takes each quote at a field's beginning
for an opening one, and merges all rows up to the next one, silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Fields = list[str]
_WIDTH = "the row has not {width} fields, as the header has"
# Of tabs no text has just as many in each of its lines; of commas it may.
_UNCLEAR = (
    "a quote opens here and closes in line {last}, but each of these lines could be a row; double "
    "the quotes in texts"
)


@dataclass(frozen=True)
class Line:
    """One row of a table: the number of its first line, and its fields or why it has none."""

    number: int
    fields: Fields
    problem: str = ""


def is_quoted(lines: Iterable[str], separator: str) -> bool:
    """Whether a table shows that its writer quotes: doubled quotes, and none left as they are."""
    table = _Lines(lines)
    while table.more() and not table.bare:
        _fields([table.take()[1]], separator, table)
    return table.doubled and not table.bare


def rows_of(lines: Iterable[str], separator: str, quoted: bool) -> Iterator[Line]:
    """The rows of a table, its header first; blank lines are none. `lines` keep their ends.

    `quoted`: a row may span lines that look like rows (see `is_quoted`).
    """
    table = _Lines(lines)
    width = 0
    while table.more():
        number, first = table.take()
        if not first.strip("\r\n"):
            continue
        spanned = [first]
        fields = _fields(spanned, separator, table)
        width = width or len(fields)
        wrong = len(fields) != width
        if len(spanned) > 1 and (wrong or not quoted and _are_rows(spanned, separator, width)):
            if separator == "," and not wrong:
                last = number + len(spanned) - 1
                yield Line(number, [], _UNCLEAR.format(last=last))
                continue
            table.give_back(spanned[1:])
            fields = _fields(spanned[:1], separator, None)
        yield Line(number, fields, "" if len(fields) == width else _WIDTH.format(width=width))


def _are_rows(lines: list[str], separator: str, width: int) -> bool:
    """Whether each of these lines could be a row of its own."""
    return all(len(_fields([line], separator, None)) == width for line in lines)


class _Lines:
    """Lines with their numbers, some of which can be given back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._ahead = iter(lines), deque[str]()
        self.number = 0  # of the line that was taken last
        self.doubled = self.bare = False  # what kinds of quotes were met

    def more(self) -> bool:
        """Whether there is a next line."""
        if not self._ahead:
            self._ahead.extend(line for line in [next(self._lines, None)] if line is not None)
        return bool(self._ahead)

    def take(self) -> tuple[int, str]:
        """The next line and its number."""
        self.number += 1
        return self.number, self._ahead.popleft()

    def give_back(self, lines: list[str]) -> None:
        """These lines, the last that were taken, come again."""
        self._ahead.extendleft(reversed(lines))
        self.number -= len(lines)


def _fields(spanned: list[str], separator: str, table: _Lines | None) -> Fields:
    """The fields of the row that begins with the line in `spanned`, which gets the others it spans.

    Without a `table` the line stands alone.
    """
    if '"' not in spanned[0]:
        return spanned[0].rstrip("\r\n").split(separator)
    fields, line, at = [], spanned[0], 0
    while True:
        found = _quoted(line, at, separator, spanned, table) if line[at : at + 1] == '"' else None
        if found is not None:
            text, line, at = found
        else:
            end = line.find(separator, at)
            text = line[at:].rstrip("\r\n") if end < 0 else line[at:end]
            if table is not None and '"' in text:
                table.bare = True
            at = len(line) if end < 0 else end
        fields.append(text)
        if line[at : at + 1] != separator:
            return fields
        at += 1


def _quoted(
    line: str, start: int, separator: str, spanned: list[str], table: _Lines | None
) -> tuple[str, str, int] | None:
    """The text of a quoted field, the line where it ends, and where there; None if it is none."""
    pieces: list[str] = []
    taken: list[str] = []
    at = start + 1
    while True:
        end = line.find('"', at)
        if end >= 0 and line[end + 1 : end + 2] == '"':
            pieces.append(line[at : end + 1])
            at = end + 2
        elif end >= 0:
            if line[end + 1 : end + 2] not in ("", separator, "\r", "\n"):
                break
            spanned.extend(taken)
            if table is not None and pieces and '"' in "".join(pieces):
                table.doubled = True
            return "".join([*pieces, line[at:end]]), line, end + 1
        elif table is None or not table.more():
            break
        else:
            pieces.append(line[at:])
            line, at = table.take()[1], 0
            taken.append(line)
    if table is not None:
        table.give_back(taken)
    return None
