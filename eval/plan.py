"""What there is to do: which captions, answers and judgements an evaluation consists of, by key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from caprl_native.config.models import TEMPLATE
from caprl_native.data.formats import DEFAULT_PROMPTS
from caprl_native.data.records import DataError
from caprl_native.files import matching
from caprl_native.inference.identity import (
    media_identity,
    media_settings,
    model_identity,
    penalty_identity,
)
from caprl_native.inference.models import Request
from caprl_native.inference.store import key_of
from caprl_native.rewards.prompts import PROMPT_VERSION
from caprl_native.seeds import seed_of
from caprl_native.types import MediaRef
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Benchmark, Files
from eval.config import BenchmarkConfig, PrismConfig, chosen
from eval.items import Broken, Item


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its items and the rows of its files that are none."""

    benchmark: Benchmark
    items: tuple[Item, ...]
    broken: tuple[Broken, ...]


def load_benchmarks(config: PrismConfig) -> list[LoadedBenchmark]:
    """The benchmarks that the config gives files for.

    Raises `DataError` for files that cannot be read or have no items.
    """
    found = []
    for name, given in chosen(config).items():
        benchmark = benchmarks()[name]
        rows = _limited(benchmark.read(_files(given, config.run.allow_outside)), config.run.limit)
        items = [row for row in rows if isinstance(row, Item)]
        broken = tuple(row for row in rows if isinstance(row, Broken))
        if not items:
            first = f"; the first: {broken[0].source}: {broken[0].reason}" if broken else ""
            raise DataError(f"benchmarks.{name}.files: no items{first}")
        found.append(LoadedBenchmark(benchmark, tuple(items), broken))
    return found


def _limited(rows: Iterable[Item | Broken], limit: int) -> list[Item | Broken]:
    """Up to so many items, and the broken rows before the last of them; 0: all."""
    found, items = [], 0
    for row in rows:
        found.append(row)
        items += isinstance(row, Item)
        if items == limit:
            break
    return found


def _files(given: BenchmarkConfig, allow_outside: bool) -> Files:
    return Files(
        tuple(Path(file) for name in given.files for file in matching(name) or [name]),
        Path(given.media_root) if given.media_root else None,
        Path(given.subtitles) if given.subtitles else None,
        allow_outside,
    )


@dataclass(frozen=True)
class Unit:
    """Media that are captioned once, whichever questions are asked about them.

    `key` without the caption's number; `media_key` names what the report shows of them.
    """

    key: str
    media_key: str
    name: str
    media: tuple[MediaRef, ...]
    messages: tuple[dict[str, Any], ...]

    def caption_key(self, number: int) -> str:
        return f"{self.key}-{number}"


def unit_key(caption_key: str) -> str:
    """Of the unit that a caption is of."""
    return caption_key.rpartition("-")[0]


class Captions:
    """The captions that items need."""

    def __init__(self, config: PrismConfig) -> None:
        self.config = config
        self._media = cache(media_identity)

    @cached_property
    def settings(self) -> list[Any]:
        """What captions depend on, beside chat and media."""
        model = self.config.captioner
        shown = model.video_as if model.endpoint else ""
        media = media_settings(self.config.media)
        system = [] if model.system == TEMPLATE else [model.system]
        rest = [*system, *penalty_identity(model)]
        return [model_identity(model), media, shown, self.config.run.seed, *rest]

    def unit(self, item: Item) -> Unit:
        """What must be captioned for an item."""
        messages = self._messages(item)
        media = self.media_of(item)
        return Unit(
            key_of("caption", self.settings, messages, media),
            key_of("media", media),
            item.id,
            item.media,
            messages,
        )

    def media_of(self, item: Item) -> list[Any]:
        """What its media are, wherever they lie."""
        return [self._media(m) for m in item.media]

    def _messages(self, item: Item) -> tuple[dict[str, Any], ...]:
        model = self.config.captioner
        given = model.video_prompt if item.modality == "video" else model.image_prompt
        if item.prompt and not given:
            return self.with_system(item.prompt)
        content = [{"type": m.kind} for m in item.media]
        text = {"type": "text", "text": given or DEFAULT_PROMPTS[item.modality]}
        return self.with_system(({"role": "user", "content": [*content, text]},))

    def with_system(self, chat: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """The chat with the system turn that the config gives, or without any."""
        system = self.config.captioner.system
        if system == TEMPLATE:
            return chat
        chat = tuple(turn for turn in chat if turn["role"] != "system")
        if not system:
            return chat
        return ({"role": "system", "content": [{"type": "text", "text": system}]}, *chat)

    def requests(self, unit: Unit, missing: Sequence[int]) -> Iterator[Request]:
        """Asks for the captions of these numbers, together where they follow each other."""
        seed = seed_of("caption", unit.key)
        for numbers in runs_of(missing):
            keys = tuple(unit.caption_key(i) for i in numbers)
            yield Request(
                keys, unit.messages, seed + numbers[0], unit.name, unit.media, pictured=True
            )


def runs_of(numbers: Sequence[int]) -> list[list[int]]:
    """Growing numbers, those together that follow each other."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


class DirectAnswers:
    """What the captioner is asked where it answers itself, with the media in view."""

    def __init__(self, captions: Captions) -> None:
        self.captions = captions

    def key(self, benchmark: Benchmark, item: Item) -> str:
        """Of the answers to an item, without their numbers."""
        media = self.captions.media_of(item)
        chat = self._chat(benchmark, item), self._prefix(benchmark, item)
        return key_of("direct", self.captions.settings, *chat, media, benchmark.name, item.id)

    def requests(
        self, benchmark: Benchmark, item: Item, missing: Sequence[int]
    ) -> Iterator[Request]:
        """Asks for the answers of these numbers, together where they follow each other."""
        key, chat = self.key(benchmark, item), self._chat(benchmark, item)
        seed, prefix = seed_of("direct", key), self._prefix(benchmark, item)
        for numbers in runs_of(missing):
            keys = tuple(f"{key}-{i}" for i in numbers)
            yield Request(keys, chat, seed + numbers[0], item.id, item.media, prefix, pictured=True)

    def _chat(self, benchmark: Benchmark, item: Item) -> tuple[dict[str, Any], ...]:
        return self.captions.with_system(benchmark.direct_chat(item))

    def _prefix(self, benchmark: Benchmark, item: Item) -> str:
        """What the data open the answer with; ours is for readers."""
        return benchmark.prefix(item) if item.chat else ""


class Answers:
    """What the reader is asked."""

    def __init__(self, config: PrismConfig) -> None:
        self.config = config

    @cached_property
    def _settings(self) -> list[Any]:
        return [model_identity(self.config.reader), PROMPT_VERSION]

    def request(self, benchmark: Benchmark, item: Item, number: int, caption: str) -> Request:
        """About caption `number` of an item; where replies are greedy, equal captions share one."""
        messages, prefix = benchmark.chat(item, caption), benchmark.prefix(item)
        seed = 0
        if self.config.reader.temperature:
            seed = seed_of("answer", self.config.run.seed, benchmark.name, item.id, number)
        key = key_of("answer", self._settings, messages, prefix, seed)
        return Request((key,), tuple(messages), seed, item.id, prefix=prefix)


class Judgements:
    """What the judge is asked."""

    def __init__(self, config: PrismConfig) -> None:
        self.config = config

    @cached_property
    def _settings(self) -> list[Any]:
        return model_identity(self.config.judge)

    @property
    def attempts(self) -> int:
        """Replies that are asked for until one can be read; a greedy engine repeats itself."""
        judge = self.config.judge
        return 1 if judge.path and not judge.temperature else judge.attempts

    def request(
        self, item: Item, messages: Sequence[dict[str, Any]], repeat: int = 0, attempt: int = 0
    ) -> Request:
        """Asked once for each wording, in each of the repeated judgements."""
        seed = self.config.run.seed if self.config.judge.temperature else 0
        parts: list[Any] = [list(messages), seed]
        if repeat or attempt:
            seed = seed_of("judge", seed, repeat, attempt)
            parts += [repeat, attempt]
        key = key_of("judge", self._settings, *parts)
        return Request((key,), tuple(messages), seed, item.id)
