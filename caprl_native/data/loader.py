"""Samples -> batches: decoded and prepared in worker processes, sharded over ranks, resumable.

The order is a pure function of (seed, epoch). Batch k of an epoch is `order[k * B : (k + 1) * B]`,
and shard r of S takes every S-th sample of it. So a position is two numbers, epoch and batch, that
mean the same on any number of ranks and worker processes. StatefulDataLoader's own state does not
(it holds each worker's state), so the batches that were *delivered* are counted here.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from caprl_native.config.schema import DataConfig, MediaConfig
from caprl_native.data.decoders import close_decoders
from caprl_native.data.media import DecodedImage, DecodedVideo, MediaError, decode, longest
from caprl_native.data.records import DataError, Records
from caprl_native.data.supervise import SupervisedBatches
from caprl_native.data.transport import Budget, Parcel
from caprl_native.data.workers import without_main, worker_context, worker_init
from caprl_native.types import Sample

Prepare = Callable[[Sample, list[DecodedImage | DecodedVideo]], Any]

log = logging.getLogger(__name__)


class SampleSkipped(Exception):
    """Raised by `prepare` for a sample that cannot be used, such as a prompt that is too long."""


class TooManySkipped(RuntimeError):
    """More samples could not be used than the configuration allows."""


@dataclass(frozen=True)
class LoadedSample:
    """A sample, what `prepare` made of it (without one: its decoded media), and its record."""

    sample: Sample  # embedded files' bytes are dropped, they have been decoded
    prepared: Any
    index: int


@dataclass(frozen=True)
class SkippedSample:
    """A sample that could not be used. `name`: the file or record that is to blame."""

    sample: Sample
    reason: str
    index: int
    name: str


LoaderItem = LoadedSample | SkippedSample


class _Samples(Dataset[LoaderItem]):
    """What a worker process runs: record -> decoded -> prepared."""

    budget: Budget | None = None  # None: this process takes the samples itself

    def __init__(self, records: Records, media: MediaConfig, prepare: Prepare | None) -> None:
        self.records, self.media, self.prepare = records, media, prepare

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, indices: list[int]) -> list[LoaderItem] | Parcel:
        """A batch, in a worker process packed for its way."""
        worker = get_worker_info()
        if self.budget is None or worker is None:
            return [self[index] for index in indices]
        return self.budget.pack(worker.id, indices, self.__getitem__)

    def __getitem__(self, index: int) -> LoaderItem:
        try:
            return self._item(index)
        except StopIteration as error:  # an iterator's end to whoever called, who would stop early
            raise RuntimeError(f"{self.records.place(index)}: StopIteration") from error

    def _item(self, index: int) -> LoaderItem:
        try:
            sample = self.records[index]
        except DataError as error:  # it was right at start-up, but for the bytes of its media
            place = self.records.place(index)
            unread = Sample(id=place, media=(), messages=(), source=place)
            return SkippedSample(unread, str(error).removeprefix(f"{place}: "), index, place)
        light = replace(sample, media=tuple(replace(m, data=None) for m in sample.media))
        try:
            decoded = decode(sample, self.media)
            light = replace(light, seconds=longest(decoded))
            prepared = decoded if self.prepare is None else self.prepare(sample, decoded)
        except MediaError as error:
            return SkippedSample(light, error.reason, index, error.name)
        except SampleSkipped as error:
            return SkippedSample(light, str(error), index, f"sample {sample.id} ({sample.source})")
        return LoadedSample(light, prepared, index)


def epoch_order(n: int, *, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """The order in which an epoch visits `n` records."""
    if not shuffle:
        return np.arange(n)
    return np.random.default_rng([seed % 2**64, epoch]).permutation(n)


class _BatchOrder(Sampler[list[int]]):
    """This shard's part of every batch from `first` on, epoch after epoch, without end."""

    def __init__(self, n: int, size: int, *, seed: int, shuffle: bool, shard: slice) -> None:
        self.n, self.size, self.seed, self.shuffle, self.shard = n, size, seed, shuffle, shard
        self.first = 0

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.n // self.size
        epoch, batch = divmod(self.first, per_epoch)
        while True:
            order = epoch_order(self.n, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
            for k in range(batch, per_epoch):
                yield order[k * self.size : (k + 1) * self.size][self.shard].tolist()
            epoch, batch = epoch + 1, 0


class _Batches(SupervisedBatches[Any]):
    """Batches from worker processes, unpacked here; `order(k)` gives those from the k-th on."""

    def __init__(
        self,
        dataset: _Samples,
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
        config, dataset = self._config, copy.copy(self._dataset)
        context = worker_context(dataset.prepare) if config.workers else None
        if context:
            self._budget = Budget(config.workers, config.prefetch_gib * 2**30, context)
            dataset.budget = self._budget
        with without_main(dataset.prepare), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated")  # torchdata's
            loader = StatefulDataLoader(
                dataset,
                batch_sampler=self._order(position),
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

    Records that do not fill an epoch's last batch are left out of that epoch. Worker processes
    start with the first batch and live until `close`; they prefetch over the ends of epochs.
    """

    def __init__(
        self,
        dataset: _Samples,
        config: DataConfig,
        *,
        seed: int,
        shard: int,
        num_shards: int,
    ) -> None:
        n, size = len(dataset), config.batch_size
        if n < size:
            raise DataError(
                f"{n} records do not fill one batch of {size}; "
                f"add records, or set data.batch_size to {n} or less"
            )
        self.batches_per_epoch = n // size
        self._delivered = 0
        self._config, self._dataset = config, dataset
        self._batches = self._supervised()
        self._order = _BatchOrder(
            n, size, seed=seed, shuffle=config.shuffle, shard=slice(shard, None, num_shards)
        )
        self._identity = {
            "seed": seed,
            "shuffle": config.shuffle,
            "batch_size": size,
            "records": len(dataset.records),
            "ids": dataset.records.fingerprint,
            **dataset.records.contents,
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
        items = next(self._batches)
        self._delivered += 1
        return items

    def _supervised(self) -> _Batches:
        return _Batches(self._dataset, self._from, self._config, self._delivered)

    def _from(self, position: int) -> _BatchOrder:
        self._order.first = position
        return self._order

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches delivered so far; the same on every shard."""
        return {"epoch": self.epoch, "batch": self.batch} | self._identity

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a position. Raises `DataError` if it was taken over other data."""
        changed = {k: v for k, v in self._identity.items() if state.get(k) != v}
        told = [k for k in ("seed", "shuffle", "batch_size", "records") if k in changed]
        if told:
            said = f"{told[0]} was {state.get(told[0])!r}, now it is {changed[told[0]]!r}"
        elif changed:
            said = f"the {' and the '.join(changed)} of data.files are not what they were"
        if changed:
            raise DataError(f"cannot continue in mid-epoch: {said}; restore it, or start a new run")
        self._delivered = state["epoch"] * self.batches_per_epoch + state["batch"]
        self.close()

    def close(self) -> None:
        """Ends the worker processes; prefetched batches are lost, the position is not."""
        self._batches.close()
        self._batches = self._supervised()
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
) -> Loader:
    """The training loader of shard `shard` of `num_shards`.

    `prepare(sample, decoded)` runs in the worker processes, so it must be picklable and defined in
    an importable module; it may raise `SampleSkipped`. An attribute `worker_imports` names heavy
    modules that it will need, to be imported once and not by every worker. Raises `DataError` if
    the records do not fill one batch.
    """
    dataset = _Samples(records, media, prepare)
    return Loader(dataset, config, seed=seed, shard=shard, num_shards=num_shards)


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

    Every shard gets the same number of batches; the last may be smaller, or empty.
    """
    n = min(limit, len(records)) if limit else len(records)
    batches = [
        list(range(start, min(start + config.batch_size, n)))[shard::num_shards]
        for start in range(0, n, config.batch_size)
    ]
    dataset = _Samples(records, media, prepare)
    supervised = _Batches(dataset, lambda k: batches[k:], config)
    try:
        yield from supervised
    finally:
        supervised.close()


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
