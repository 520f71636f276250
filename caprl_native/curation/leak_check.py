"""What questions give away: the reader's answers without a caption, and with another sample's.

For each question of the data files the reader is asked some rounds under three conditions, the
choices in another order each time, as a run's reward asks it. The shares of right answers become
columns of copies of the files (`data/question_columns.py`), which the loader filters and weighs by.

What was answered is kept beside the copies, so that a check that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from caprl_native.config.models import ReaderConfig
from caprl_native.curation.copies import Column, write_copy
from caprl_native.data.question_columns import BLIND, DIFFICULTY, OTHER, OWN
from caprl_native.data.records import DataError, Records
from caprl_native.files import matching
from caprl_native.inference.endpoint import urls
from caprl_native.inference.store import JsonLog, fingerprint, key_of
from caprl_native.redact import without_userinfo
from caprl_native.rewards.prompts import PROMPT_VERSION, reader_messages
from caprl_native.rewards.questions import ShownQuestion, draw, read_answer
from caprl_native.rewards.readers.base import Answer, Ask, Reader
from caprl_native.seeds import rng_of, seed_of
from caprl_native.text.thoughts import CUT_OFF, said
from caprl_native.types import Modality, Question, Sample

ANSWERED = "leak_check.jsonl"  # in the folder of the copies
_AT_A_TIME = 256  # questions that the reader is given before their answers are waited for


@dataclass(frozen=True)
class Settings:
    """How questions are asked. `cannot_answer`: the choice that says so is offered."""

    rounds: int = 4
    seed: int = 0
    cannot_answer: bool = True


@dataclass(frozen=True)
class Place:
    """Where a question is: record `index` of file `file`, its `number` there."""

    file: int
    index: int
    number: int


@dataclass(frozen=True)
class Check:
    """A question under one condition, as it is asked round by round."""

    place: Place
    condition: str
    asks: list[Ask]
    shown: list[ShownQuestion]


@dataclass
class Found:
    """Shares of right answers by place, of each condition; what the reader did not answer."""

    shares: dict[str, dict[Place, float]] = field(default_factory=lambda: defaultdict(dict))
    unanswered: int = 0
    reason: str = ""

    def column(self, condition: str, file: int, index: int, count: int) -> Column:
        """Of a record with so many questions."""
        its = self.shares[condition]
        return [its.get(Place(file, index, number)) for number in range(count)]


class Captions:
    """Captions by sample, and which samples may lend theirs to another one."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._lenders: dict[Modality, list[str]] = defaultdict(list)

    def read(self, files: Iterable[str]) -> None:
        """Takes `id` and `caption` of every line: a run's rollout logs have both.

        Raises:
            DataError: a line has not.
        """
        for path in (found for name in files for found in matching(name) or [name]):
            try:
                with open(path, encoding="utf-8") as opened:
                    for number, line in enumerate(opened, 1):
                        if line.strip():
                            self._read_line(line, f"{path}:{number}")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path}: cannot be read: {error}") from error

    def _read_line(self, line: str, where: str) -> None:
        try:
            record = json.loads(line)
            identity, text = record["id"], record["caption"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DataError(f"{where}: expected an object with an id and a caption") from None
        if not isinstance(text, str):
            raise DataError(f"{where}: caption: expected a text")
        if text.strip():
            self._texts[str(identity)].append(text)

    def know(self, sample: Sample, raw: dict[str, Any]) -> None:
        """Takes a sample in; a caption in its record counts where no file has one."""
        own = raw.get("caption") or raw.get("response")
        if sample.id not in self._texts and isinstance(own, str) and own.strip():
            self._texts[sample.id].append(own)
        if sample.id in self._texts:
            self._lenders[sample.modality].append(sample.id)

    @property
    def some(self) -> bool:
        """Whether any sample has one."""
        return any(self._lenders.values())

    def own(self, sample: Sample, number: int) -> str | None:
        """One of the sample's captions, in turn."""
        its = self._texts.get(sample.id)
        return its[number % len(its)] if its else None

    def other(self, sample: Sample, number: int, seed: int) -> str | None:
        """A caption of another sample of the same kind, drawn for this round."""
        lenders = self._lenders[sample.modality]
        rng = rng_of("leak check, other caption", seed, sample.id, number)
        for _ in range(8):  # its own id is drawn in vain
            lender = rng.choice(lenders) if lenders else sample.id
            if lender != sample.id:
                return rng.choice(self._texts[lender])
        return next((self._texts[name][0] for name in lenders if name != sample.id), None)


def checks_of(records: Records, captions: Captions, settings: Settings) -> Iterator[Check]:
    """Every question under every condition that there are captions for."""
    for record in records.listing():
        sample = record.sample
        for number, question in zip(record.numbers, sample.questions, strict=True):
            place = Place(record.file, record.index, number)
            rounds = range(settings.rounds)
            texts: dict[str, list[str | None]] = {BLIND: ["" for _ in rounds]}
            if captions.some:
                texts[OTHER] = [captions.other(sample, r, settings.seed) for r in rounds]
                texts[OWN] = [captions.own(sample, r) for r in rounds]
            for condition, its in texts.items():
                given = [text for text in its if text is not None]
                if len(given) == len(its):
                    yield _check(place, condition, sample, question, given, settings)


def _check(
    place: Place,
    condition: str,
    sample: Sample,
    question: Question,
    texts: list[str],
    settings: Settings,
) -> Check:
    key = ("leak check", settings.seed, sample.id, place.number)
    shown = [
        draw(question, rng_of(*key, r), cannot_answer=settings.cannot_answer)
        for r in range(len(texts))
    ]
    asks = [
        Ask(
            reader_messages(sample.modality, text, q.question, list(q.choices)),
            seed_of(*key, condition, r),
        )
        for r, (text, q) in enumerate(zip(texts, shown, strict=True))
    ]
    return Check(place, condition, asks, shown)


def run(config: ReaderConfig, checks: Iterable[Check], out: Path, *, progress: bool) -> Found:
    """Asks the reader; what is in the folder's log already is not asked again."""
    with ExitStack() as opened:

        @cache
        def reader() -> Reader:
            return opened.enter_context(closing(_started(config)))

        log = opened.enter_context(closing(JsonLog(out / ANSWERED)))
        return answered(reader, identity_of(config), checks, log, progress)


def _started(config: ReaderConfig) -> Reader:
    from caprl_native.rewards.readers import build_reader

    if config.path:
        from caprl_native.distributed.world import init_distributed

        init_distributed()
    return build_reader(config)


def answered(
    reader: Callable[[], Reader],
    identity: list[Any],
    checks: Iterable[Check],
    log: JsonLog,
    progress: bool,
) -> Found:
    """Asks what the log does not hold yet, and keeps what is answered. `reader`: starts it, when it
    is first called."""
    known = {record["key"]: record["right"] for record in log.records()}
    found, coming = Found(), iter(checks)
    with tqdm(unit=" questions", disable=not progress) as bar:
        while part := list(islice(coming, _AT_A_TIME)):
            keys = [_key(identity, check) for check in part]
            new = [(key, c) for key, c in zip(keys, part, strict=True) if key not in known]
            asked = [(key, c, reader().ask(c.asks)) for key, c in new]
            if asked:
                reader().finish()
            for key, check, answers in asked:
                if (right := _right(check, answers, found)) is not None:
                    known[key] = right
                    log.add({"key": key, "right": right})
                bar.update()
            bar.update(len(part) - len(new))
            for key, check in zip(keys, part, strict=True):
                if key in known:
                    found.shares[check.condition][check.place] = known[key]
    return found


def _key(identity: list[Any], check: Check) -> str:
    asked = [[ask.messages, ask.seed] for ask in check.asks]
    return key_of("leak check", PROMPT_VERSION, identity, asked)


def _right(check: Check, answers: list[Future[Answer]], found: Found) -> float | None:
    """The share of right answers; None, and noted, where one is missing."""
    right = 0
    for question, future in zip(check.shown, answers, strict=True):
        answer = future.result()
        if answer.text is None or said(answer.text).cut_off:
            found.unanswered += 1
            found.reason = found.reason or answer.failure or CUT_OFF
            return None
        right += read_answer(answer.text, question) == question.answer
    return right / len(check.shown)


def identity_of(reader: ReaderConfig) -> list[Any]:
    """What a reader's answers depend on, beside prompt and seed."""
    sampling = [reader.temperature, reader.top_p, reader.top_k, reader.max_tokens]
    if reader.endpoint:
        servers = sorted(without_userinfo(url) for url in urls(reader.endpoint))
        return ["endpoint", servers, reader.model, reader.prefill, *sampling]
    return ["engine", fingerprint(reader.path), reader.dtype, *sampling]


def write_copies(records: Records, found: Found, captions: Captions, out: Path) -> list[Path]:
    """A copy of each data file under its own name, with a column for each condition.

    Raises:
        DataError: two files have one name, or a file is in that folder itself.
    """
    targets = [out / Path(name).name for name in records.names]
    if len(set(targets)) < len(targets):
        raise DataError("two data files have one name; check them one by one, into two folders")
    counts = [[0] * len(rows) for rows in records.files]
    for record in records.listing():
        counts[record.file][record.index] = record.count
    names = [BLIND, *([OTHER, OWN, DIFFICULTY] if captions.some else [])]
    for f, (rows, source) in enumerate(zip(records.files, records.names, strict=True)):

        def columns(i: int, f: int = f) -> dict[str, Column]:
            its = {name: found.column(name, f, i, counts[f][i]) for name in names}
            if OWN in its:
                its[DIFFICULTY] = [None if p is None else p * (1 - p) for p in its[OWN]]
            return its

        write_copy(rows, source, targets[f], names, columns)
    return targets


def summary(found: Found) -> str:
    """A line per condition: of how many questions, how many are right, how many nearly always."""
    lines = [f"{'':16} questions   mean   above 0.5"]
    for condition in (BLIND, OTHER, OWN):
        values = list(found.shares[condition].values())
        if values:
            above = sum(value > 0.5 for value in values) / len(values)
            mean = sum(values) / len(values)
            lines.append(f"{condition:16} {len(values):9,}  {mean:5.3f}   {above:9.3f}")
    return "\n".join(lines)
