"""Samples -> batches: decoded and prepared in worker processes, sharded over ranks, resumable.

The batches of an epoch are a pure function of (seed, epoch), see curriculum.py, and shard r of S
takes every S-th sample of each. So a position is two numbers, epoch and batch, that mean the same
on any number of ranks and worker processes. StatefulDataLoader's own state does not (it holds each
worker's state), so the batches that were *delivered* are counted here.

Where prompts are made of what earlier captions left (carried.py), worker processes prepare the
batches of one stage and stop: those of the next are begun when what this one left is known.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from caprl_native.config.history import HistoryConfig
from caprl_native.config.media import MediaConfig
from caprl_native.config.schema import DataConfig
from caprl_native.data.carried import (
    Entry,
    History,
    check_links,
    check_texts_are_there,
)
from caprl_native.data.curriculum import Schedule, epoch_order
from caprl_native.data.decoders import close_decoders
from caprl_native.data.mixing import Mixture
from caprl_native.data.records import DataError, Records
from caprl_native.data.samples import (
    LoadedSample,
    LoaderItem,
    Prepare,
    Samples,
    SampleSkipped,
    SkippedSample,
)
from caprl_native.data.supervise import SupervisedBatches
from caprl_native.data.transport import Budget
from caprl_native.data.workers import without_main, worker_context, worker_init

__all__ = [
    "LoadedSample",
    "Loader",
    "LoaderItem",
    "SampleSkipped",
    "SkipLedger",
    "SkippedSample",
    "TooManySkipped",
    "build_loader",
    "epoch_order",
    "eval_batches",
]

log = logging.getLogger(__name__)


@dataclass
class _BatchOrder(Sampler[list[int]]):
    """This shard's part of every batch from `first` on, up to `end`; None: without end."""

    schedule: Schedule
    shard: slice
    first: int = 0
    end: int | None = None

    def __iter__(self) -> Iterator[list[int]]:
        epoch, batch = divmod(self.first, len(self.schedule))
        position = self.first
        while True:
            for indices in self.schedule.batches(epoch)[batch:]:
                if position == self.end:
                    return
                yield indices[self.shard].tolist()
                position += 1
            epoch, batch = epoch + 1, 0


class _Batches(SupervisedBatches[Any]):
    """Batches from worker processes, unpacked here; `order(k)` gives those from the k-th on."""

    def __init__(
        self,
        dataset: Samples,
        order: Callable[[int], Sampler[list[int]] | Sequence[list[int]]],
        config: DataConfig,
        position: int = 0,
    ) -> None:
        self._dataset, self._order, self._config = dataset, order, config
        self._budget: Budget | None = None
        super().__init__(self._open, position)

    def __next__(self) -> list[LoaderItem]:
        batch = super().__next__()
        return self._budget.take(batch) if self._budget else batch

    def close(self) -> None:
        """Ends the worker processes."""
        if self._budget:
            self._budget.close()
        super().close()

    def _open(self, position: int) -> Iterator[Any]:
        """New worker processes, and a new budget: nothing of earlier ones waits any more."""
        order = self._order(position)  # first: it says what the data set is to know by now
        config, dataset = self._config, copy.copy(self._dataset)
        context = worker_context(dataset.prepare) if config.workers else None
        if context:
            self._budget = Budget(config.workers, config.prefetch_gib * 2**30, context)
            dataset.budget = self._budget
        with without_main(dataset.prepare), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated")  # torchdata's
            loader = StatefulDataLoader(
                dataset,
                batch_sampler=order,
                num_workers=config.workers,
                prefetch_factor=max(1, config.prefetch) if context else None,
                collate_fn=_as_it_is,
                multiprocessing_context=context,
                worker_init_fn=worker_init if context else None,
                generator=torch.Generator().manual_seed(0),  # so that torch's own is left alone
                snapshot_every_n_steps=0,
            )
            return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch


class Loader:
    """An endless iterator over this shard's part of each batch, a list of `LoaderItem`s.

    Without a curriculum, records that do not fill an epoch's last batch are left out of that epoch.
    Worker processes start with the first batch and live until `close`; they prefetch over the ends
    of epochs and stages. With a `history` they live for a stage, and whoever takes batches says by
    `carry` what became of each.
    """

    def __init__(
        self,
        dataset: Samples,
        config: DataConfig,
        *,
        seed: int,
        shard: int,
        num_shards: int,
        history: History | None = None,
    ) -> None:
        records, size = dataset.records, config.batch_size
        mixture = Mixture.of(records, config)
        count = len(records if mixture is None else mixture)
        self.schedule = Schedule(count, size, seed, config.shuffle, records.stages, mixture)
        self.batches_per_epoch = len(self.schedule)
        self.history = history
        self._delivered = self._carried = 0
        self._config, self._dataset = config, dataset
        self._batches = self._supervised()
        self._order = _BatchOrder(self.schedule, slice(shard, None, num_shards))
        self._identity = {
            "seed": seed,
            "shuffle": config.shuffle,
            "batch_size": size,
            "records": len(records),
            "ids": records.fingerprint,
            "stages": self.schedule.fingerprint,
            "mix": None if mixture is None else mixture.counts,
            **records.contents,
        }

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._delivered // self.batches_per_epoch

    @property
    def batch(self) -> int:
        """The place of the next batch in its epoch; 0: an epoch has just ended (or none begun)."""
        return self._delivered % self.batches_per_epoch

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> list[LoaderItem]:
        if self.history is not None and self.schedule.begins_stage(self._delivered):
            self._begin_stage(self.history)
        items = next(self._batches)
        self._delivered += 1
        return items

    def carry(self, entries: Iterable[Entry]) -> None:
        """Takes in what all ranks' captions of the batches that were delivered have left."""
        assert self.history is not None
        self.history.add(entries)
        self._carried = self._delivered

    def _begin_stage(self, history: History) -> None:
        """What was left before is what this stage's prompts are made of.

        Raises:
            DataError: some of it is not there.
        """
        if self._carried != self._delivered:
            raise RuntimeError("a stage is to begin, and what the one before has left is not known")
        history.settle()
        epoch, batch = divmod(self._delivered, len(self.schedule))
        end = self.schedule.stage_end(self._delivered) - epoch * len(self.schedule)
        records = self._dataset.records
        chosen = [i for part in self.schedule.batches(epoch)[batch:end] for i in part.tolist()]
        check_texts_are_there(
            chosen, records.links or [], history.settled, records.place, self._config.history
        )
        self._reopen()

    def _supervised(self) -> _Batches:
        return _Batches(self._dataset, self._from, self._config, self._delivered)

    def _from(self, position: int) -> _BatchOrder:
        self._order.first = position
        if self.history is not None:
            self._order.end = self.schedule.stage_end(position)
            self._dataset.texts = self.history.settled
        return self._order

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches delivered so far; the same on every shard."""
        return {"epoch": self.epoch, "batch": self.batch} | self._identity

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a position. Raises `DataError` if it was taken over other data."""
        changed = {k: v for k, v in self._identity.items() if state.get(k) != v}
        told = [k for k in ("seed", "shuffle", "batch_size", "records", "mix") if k in changed]
        if told:
            said = f"{told[0]} was {state.get(told[0])!r}, now it is {changed[told[0]]!r}"
        elif changed:
            said = f"the {' and the '.join(changed)} of data.files are not what they were"
        if changed:
            raise DataError(f"cannot continue in mid-epoch: {said}; restore it, or start a new run")
        self._delivered = state["epoch"] * self.batches_per_epoch + state["batch"]
        self._carried = self._delivered
        self.close()

    def _reopen(self) -> None:
        self._batches.close()
        self._batches = self._supervised()

    def close(self) -> None:
        """Ends the worker processes; prefetched batches are lost, the position is not."""
        self._reopen()
        close_decoders()  # those of this process; a worker's end with it


def build_loader(
    records: Records,
    config: DataConfig,
    media: MediaConfig,
    *,
    seed: int,
    shard: int,
    num_shards: int,
    prepare: Prepare | None = None,
    history: History | None = None,
) -> Loader:
    """The training loader of shard `shard` of `num_shards`.

    `prepare(sample, decoded)` runs in the worker processes, so it must be picklable and defined in
    an importable module; it may raise `SampleSkipped`. An attribute `worker_imports` names heavy
    modules that it will need, to be imported once and not by every worker. `history`: what captions
    leave, where prompts are made of it. Raises `DataError` if the records do not fill one batch, or
    need what none of them leaves.
    """
    if records.links is not None:
        check_links(records.links, records.stages, records.place, config.history)
        history = history or History()
    elif config.history != HistoryConfig():
        raise DataError(
            "data.history: no record's prompt is made of what earlier captions left; "
            "remove the table"
        )
    dataset = Samples(records, media, prepare)
    return Loader(
        dataset,
        config,
        seed=seed,
        shard=shard,
        num_shards=num_shards,
        history=history if records.links is not None else None,
    )


def eval_batches(
    records: Records,
    config: DataConfig,
    media: MediaConfig,
    *,
    shard: int,
    num_shards: int,
    prepare: Prepare | None = None,
    limit: int = 0,
) -> Iterator[list[LoaderItem]]:
    """This shard's part of the first `limit` records (0: all) in batches, in order, once.

    Every shard gets the same number of batches; the last may be smaller, or empty. Raises
    `DataError` for records whose prompts are made of what others leave.
    """
    if any(link is not None and link.needs for link in records.links or ()):
        raise DataError(
            f"{records.names[0]}: expected held-out records whose prompts need nothing of what "
            "captions of other records leave: those of the first stage"
        )
    n = min(limit, len(records)) if limit else len(records)
    batches = [
        list(range(start, min(start + config.batch_size, n)))[shard::num_shards]
        for start in range(0, n, config.batch_size)
    ]
    dataset = Samples(records, media, prepare)
    supervised = _Batches(dataset, lambda k: batches[k:], config)
    try:
        yield from supervised
    finally:
        supervised.close()


class TooManySkipped(RuntimeError):
    """More samples could not be used than the configuration allows."""


class SkipLedger:
    """Counts unusable samples, logs the reason once per file, fails the run above a share."""

    def __init__(self, max_share: float, *, judge_after: int = 20) -> None:
        self.max_share, self.judge_after = max_share, judge_after
        self.seen = self.skipped = 0
        self._logged: set[str] = set()
        self._latest: list[SkippedSample] = []

    def update(
        self,
        items: Sequence[LoaderItem],
        *,
        epoch_ended: bool = False,
        reduce: Callable[[list[int]], list[int]] = list,
    ) -> int:
        """Takes a batch in; returns how many of it were skipped, over all ranks.

        `reduce` sums counts over ranks, so that every rank holds the same totals and fails at the
        same step. Raises `TooManySkipped` once `judge_after` samples or a whole epoch were seen.
        """
        seen, lost = reduce(self.counts(items))
        self.add(seen, lost, epoch_ended=epoch_ended)
        return lost

    def counts(self, items: Sequence[LoaderItem]) -> list[int]:
        """How many samples a batch has, and how many of them were skipped; logs the reasons."""
        skipped = [item for item in items if isinstance(item, SkippedSample)]
        for item in skipped:
            if item.name not in self._logged:
                self._logged.add(item.name)
                log.warning("skipped %s: %s", item.name, item.reason)
        self._latest = skipped[:3]
        return [len(items), len(skipped)]

    def add(self, seen: int, lost: int, *, epoch_ended: bool = False) -> None:
        """Takes in the counts of a batch, of all ranks.

        Raises:
            TooManySkipped: as `update` does; it quotes what `counts` has found last.
        """
        self.seen += seen
        self.skipped += lost
        judged = epoch_ended or self.seen >= self.judge_after
        if judged and self.skipped > self.max_share * self.seen:
            raise TooManySkipped(
                f"{self.skipped} of {self.seen} samples could not be used, more than the share of "
                f"{self.max_share:g} that data.max_skipped_share allows"
                + "".join(f"; e.g. {s.name}: {s.reason}" for s in self._latest)
            )

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen, self.skipped = state["seen"], state["skipped"]
