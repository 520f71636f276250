"""Texts that captions leave for the prompts of later samples: kept by series and key.

A text is seen from the next stage of the curriculum on, on every rank, by every worker, whenever it
prepares its samples: what a stage sees was settled when it began. Every rank holds all texts; rank
0 writes `FOLDER/SERIES.json`, `{key: text}`, for people and other programs. No run reads these
files: it goes on with the texts that its checkpoint holds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from caprl_native.config.history import HistoryConfig
from caprl_native.data.fields import DataError
from caprl_native.files import atomic_write, file_name
from caprl_native.types import Carried

log = logging.getLogger(__name__)

Texts = dict[str, dict[str, str]]  # by series, by key
SHOWN = 20  # problems that a message lists


class Entry(NamedTuple):
    """A text that was left: by a caption of the sample `source`, under a key of a series."""

    series: str
    key: str
    source: str
    text: str


class Link(NamedTuple):
    """What a record has to do with others: the text that it leaves, and those that it needs."""

    series: str
    key: str
    needs: tuple[str, ...]

    @classmethod
    def of(cls, carried: Carried | None) -> Link | None:
        return None if carried is None else cls(carried.series, carried.key, carried.needs)


class History:
    """All texts that were left. `folder`: where rank 0 writes them (None: nowhere)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.settled: Texts = {}  # what the prompts of the present stage are made of
        self._fresh: Texts = {}  # left in this stage

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes in the texts of a step, of all ranks, and writes the files of their series.

        Of several texts under one key the last sample's by id counts, whichever rank had it.
        """
        added = sorted(entries)
        for entry in added:
            self._fresh.setdefault(entry.series, {})[entry.key] = entry.text
        for series in dict.fromkeys(entry.series for entry in added):
            self._write(series)

    def settle(self) -> None:
        """A stage begins: it sees what was left before."""
        for series, texts in self._fresh.items():
            self.settled[series] = self.settled.get(series, {}) | texts
        self._fresh = {}

    def texts(self, series: str) -> dict[str, str]:
        """All of a series, those of the present stage included."""
        return self.settled.get(series, {}) | self._fresh.get(series, {})

    def state_dict(self) -> dict[str, Any]:
        """The texts, those of the present stage apart; the same on every rank."""
        return {"settled": self.settled, "fresh": self._fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the texts of a checkpoint; later ones are forgotten."""
        self.settled, self._fresh = state["settled"], state["fresh"]

    def write_all(self) -> None:
        """Makes the folder hold these texts and no others: those of a run that went further go."""
        if self.folder is None:
            return
        series = sorted(self.settled.keys() | self._fresh.keys())
        names = {self._file(one) for one in series}
        for left in self.folder.glob("*.json") if self.folder.is_dir() else ():
            if left not in names:
                left.unlink()
        for one in series:
            self._write(one)

    def _file(self, series: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{file_name(series)}.json"

    def _write(self, series: str) -> None:
        if self.folder is None:
            return
        from caprl_native.distributed.errors import writing  # torch: not before --help answers

        name = self._file(series)
        with writing(name):
            self.folder.mkdir(exist_ok=True)
            with atomic_write(name) as file:
                json.dump(self.texts(series), file, ensure_ascii=False, indent=1)


# --- what records need of one another ---------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """A text that a record's prompt is made of, and that is not there."""

    place: str  # file and line
    series: str
    key: str

    def __str__(self) -> str:
        return f"{self.place}: needs the text {self.key!r} of {self.series!r}"


def check_links(
    links: Sequence[Link | None], stages: Sequence[int] | None, places: Any, config: HistoryConfig
) -> None:
    """Raises `DataError` for records that need a text which no record of an earlier stage leaves.

    `places(i)`: file and line of record i. With `missing = "empty"` they are counted in a warning.
    """
    first: dict[tuple[str, str], int] = {}  # the earliest stage that leaves a text
    for i, link in enumerate(links):
        if link is not None and link.key:
            stage = stages[i] if stages is not None else 0
            place = (link.series, link.key)
            first[place] = min(first.get(place, stage), stage)
    never = [
        Missing(places(i), link.series, key)
        for i, link in enumerate(links)
        if link is not None
        for key in link.needs
        if first.get((link.series, key), _NEVER) >= (stages[i] if stages is not None else 0)
    ]
    _tell(never, config, "no record of an earlier stage leaves it")


_NEVER = 2**31


def check_texts_are_there(
    records: Sequence[int], links: Sequence[Link | None], texts: Texts, places: Any,
    config: HistoryConfig,
) -> None:  # fmt: skip
    """The same of the records of a stage that begins, whose texts have been settled."""
    gone = [
        Missing(places(i), link.series, key)
        for i in records
        if (link := links[i]) is not None
        for key in link.needs
        if key not in texts.get(link.series, {})
    ]
    _tell(gone, config, "the sample that should have left it could not be used")


def _tell(missing: Sequence[Missing], config: HistoryConfig, why: str) -> None:
    if not missing:
        return
    listed = "\n".join(map(str, missing[:SHOWN]))
    more = f"\nand {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    problem = f"{len(missing)} text(s) that prompts are made of are missing: {why}:\n{listed}{more}"
    if config.missing == "empty":
        log.warning("%s\nthey are taken as empty (data.history.missing)", problem)
        return
    raise DataError(
        f"{problem}\ngive data.curriculum the column of stages, add or remove records, or set "
        'data.history.missing = "empty"'
    )


def filled(carried: Carried, texts: Mapping[str, str]) -> dict[str, str]:
    """The texts that a sample's prompt is made of: all that it needs, and what there is of those
    that it wants."""
    needed = {key: texts.get(key, "") for key in carried.needs}
    return needed | {key: texts[key] for key in carried.wants if key in texts}
