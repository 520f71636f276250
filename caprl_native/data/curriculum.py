"""Which records each batch of an epoch has: shuffled, or stage after stage by a column's number.

A stage's records are shuffled among themselves and shared out over as few batches as hold them, as
equal as can be: 33 records in batches of up to 32 are 17 and 16. So no batch mixes stages, no
record is left out, and no batch is much smaller than the others. Without stages an epoch is whole
batches, and the records that are left over wait for another epoch's order.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from caprl_native.data.fields import DataError

if TYPE_CHECKING:
    from caprl_native.data.mixing import Mixture


def epoch_order(n: int, *, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """The order in which an epoch visits `n` records, their stages aside."""
    if not shuffle:
        return np.arange(n)
    return np.random.default_rng([seed % 2**64, epoch]).permutation(n)


@dataclass(frozen=True)
class Schedule:
    """The batches of every epoch: a pure function of these fields. `n`: records of an epoch;
    `stages`: of each record; None: there are none; `mixture`: which records an epoch has; None:
    all. Raises `DataError` where the records do not fill one batch."""

    n: int
    size: int
    seed: int
    shuffle: bool
    stages: array[int] | None = None
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        if self.n < self.size and self.stages is None:
            raise DataError(
                f"{self.n} records do not fill one batch of {self.size}; "
                f"add records, or set data.batch_size to {self.n} or less"
            )

    @cached_property
    def counts(self) -> list[int]:
        """How many batches each stage has, in order; one number where there are no stages."""
        if self.stages is None:
            return [self.n // self.size]
        _, records = np.unique(np.asarray(self.stages), return_counts=True)
        return [-(-int(count) // self.size) for count in records]

    @cached_property
    def ends(self) -> list[int]:
        """The number of the batch of an epoch at which each stage ends; the last is the epoch's."""
        return list(accumulate(self.counts))

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.ends[-1]

    @property
    def fingerprint(self) -> str | None:
        """Of the stages; None where there are none."""
        if self.stages is None:
            return None
        return hashlib.blake2b(self.stages.tobytes(), digest_size=16).hexdigest()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The records of each batch, in order."""
        if self.mixture is None:
            order = epoch_order(self.n, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        else:
            order = self.mixture.order(seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        if self.stages is None:
            return [order[k * self.size : (k + 1) * self.size] for k in range(len(self))]
        stages = np.asarray(self.stages)[order]
        parts = [order[stages == stage] for stage in np.unique(stages)]
        pairs = zip(parts, self.counts, strict=True)
        return [batch for part, count in pairs for batch in np.array_split(part, count)]

    def begins_stage(self, position: int) -> bool:
        """Whether the batch of this number, counted from the first epoch's first, opens a stage."""
        return position % len(self) in (0, *self.ends)

    def stage_end(self, position: int) -> int:
        """The number of the batch before which the stage of batch `position` ends."""
        epoch, batch = divmod(position, len(self))
        return epoch * len(self) + next(end for end in self.ends if end > batch)
