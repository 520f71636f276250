"""Data sets mixed into one: how many records of each an epoch has, and which.

An epoch's records of a data set go on where those of the epoch before ended, in one shuffled pass
over it after another: none comes a second time before all have come once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caprl_native.config.data import DataConfig, SftDataConfig
from caprl_native.data.records import DataError, Records
from caprl_native.files import matching

_MIXING = 1  # apart from the shuffling of an epoch, which has a seed of two numbers


def epoch_sizes(sizes: Sequence[int], config: DataConfig) -> list[int] | None:
    """How many records an epoch has of each entry of `data.files`, which have so many; None where
    nothing is mixed."""
    if not isinstance(config, SftDataConfig):
        return None
    if config.mix_records:
        return list(config.mix_records)
    if config.mix:
        return [max(1, round(size * times)) for size, times in zip(sizes, config.mix, strict=True)]
    return None


@dataclass(frozen=True)
class Mixture:
    """`sources`: the numbers of each data set's records; `counts`: how many an epoch has."""

    sources: list[np.ndarray]
    counts: list[int]

    @classmethod
    def of(cls, records: Records, config: DataConfig) -> Mixture | None:
        """As the config wishes; None where nothing is mixed.

        Raises:
            DataError: nothing of an entry is left to be trained on.
        """
        ends = np.cumsum([len(matching(name)) for name in config.files])
        entry = np.searchsorted(ends, records.file_numbers(), side="right")
        sources = [np.flatnonzero(entry == i) for i in range(len(config.files))]
        counts = epoch_sizes([len(source) for source in sources], config)
        if counts is None:
            return None
        for name, source in zip(config.files, sources, strict=True):
            if not len(source):
                raise DataError(
                    f"{name}: data.mix takes records of it, and none is left to be trained on (all "
                    "were left out, or held out); remove it from data.files and data.mix"
                )
        return cls(sources, counts)

    def __len__(self) -> int:
        """Records of an epoch."""
        return sum(self.counts)

    def order(self, *, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
        """The order in which an epoch visits its records: shuffled over all data sets, or one data
        set after the other."""
        parts = [
            source[self._picks(number, epoch, seed if shuffle else None)]
            for number, source in enumerate(self.sources)
        ]
        mixed = np.concatenate(parts)
        if not shuffle:
            return mixed
        return mixed[np.random.default_rng([seed % 2**64, epoch]).permutation(len(mixed))]

    def _picks(self, number: int, epoch: int, seed: int | None) -> np.ndarray:
        """Places in a source of what an epoch takes of it."""
        size, count = len(self.sources[number]), self.counts[number]
        first, last = epoch * count, (epoch + 1) * count
        passes = range(first // size, -(-last // size))
        run = np.concatenate([_pass(size, seed, number, k) for k in passes])
        begin = first - passes.start * size
        return run[begin : begin + count]


def _pass(size: int, seed: int | None, number: int, turn: int) -> np.ndarray:
    if seed is None:
        return np.arange(size)
    return np.random.default_rng([seed % 2**64, _MIXING, number, turn]).permutation(size)
