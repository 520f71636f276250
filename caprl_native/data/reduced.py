"""Samples whose media were reduced to fit, see `media.fit`: how many, and the first names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from caprl_native.data.loader import LoadedSample, LoaderItem
from caprl_native.distributed.world import gather_objects

log = logging.getLogger(__name__)
NAMED = 3  # samples that the message names


class ReducedLedger:
    """Counts the reduced samples of each batch; names the first ones, once."""

    def __init__(self) -> None:
        self._said = False
        self._first: list[str] = []

    def count(self, items: Sequence[LoaderItem]) -> int:
        """How many of this rank's batch were reduced; a step may have several batches."""
        found = [i for i in items if isinstance(i, LoadedSample) and i.prepared.reduced_from]
        self._first += [
            f"sample {i.sample.id} ({i.sample.source}) from {i.prepared.reduced_from} tokens"
            for i in found[: NAMED - len(self._first)]
        ]
        return len(found)

    def say(self, total: int, *, main: bool) -> None:
        """Warns of the first batch that had any: `total` of all ranks (a collective then)."""
        if self._said or not total:
            return
        self._said = True
        names = [name for part in gather_objects(self._first) for name in part]
        if main:
            log.warning(
                "%d samples of a batch had media reduced to fit data.max_prompt_tokens: %s%s; "
                'data/reduced counts them at every step (media.fit = "drop" leaves them out)',
                total,
                ", ".join(names[:NAMED]),
                ", ..." if total > NAMED else "",
            )
