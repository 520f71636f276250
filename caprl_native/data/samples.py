"""One record after another -> decoded, prepared: what worker processes run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from caprl_native.config.media import MediaConfig
from caprl_native.data.carried import Texts, filled
from caprl_native.data.fields import DataError
from caprl_native.data.media import DecodedImage, DecodedVideo, MediaError, decode, longest
from caprl_native.data.records import Records
from caprl_native.data.transport import Budget, Parcel
from caprl_native.types import Sample

Prepare = Callable[[Sample, list[DecodedImage | DecodedVideo]], Any]


class SampleSkipped(Exception):
    """Raised by `prepare` for a sample that cannot be used, such as a prompt that is too long."""


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


class Samples(Dataset[LoaderItem]):
    """What a worker process runs: record -> decoded -> prepared."""

    budget: Budget | None = None  # None: this process takes the samples itself
    texts: Texts = {}  # what earlier captions left, as far as it is settled  # noqa: RUF012

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
        if (carried := sample.carried) is not None:
            sample = carried.filled(sample, filled(carried, self.texts.get(carried.series, {})))
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
