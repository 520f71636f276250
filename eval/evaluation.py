"""The stages of an evaluation: caption, answer, judge, report.

Each stage asks for what its store does not have yet, and writes down every reply when it comes;
killed at any moment, the next run goes on from there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

from tqdm import tqdm

from caprl_native.config.models import ModelConfig
from caprl_native.inference.models import Picture, Request, Result
from caprl_native.inference.room import open_model
from caprl_native.inference.store import JsonLog, Reply, Store, key_of, locked
from caprl_native.text.thoughts import CUT_OFF, said
from eval.captions import given_captions
from eval.config import PrismConfig, is_direct
from eval.items import Item, ToJudge, Verdict
from eval.judging import Backlog, Case, Judged, Judging, combined
from eval.plan import (
    Answers,
    Captions,
    DirectAnswers,
    LoadedBenchmark,
    Unit,
    load_benchmarks,
    unit_key,
)

Scored = Verdict | ToJudge | str  # str: why there is no verdict


class Evaluation:
    """One run: its items, what has been written about them, and where.

    Raises ConfigError where another process works in the same folder.
    """

    def __init__(self, config: PrismConfig) -> None:
        self.config = config
        self.folder = Path(config.run.dir or f"outputs/prism/{config.run.name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder, "run.dir", "run.dir")
        self.loaded: list[LoadedBenchmark] = load_benchmarks(config)
        self.captions = Store(self.folder / "captions.jsonl")
        self.answers = Store(self.folder / "answers.jsonl")
        self.judgements = Store(self.folder / "judgements.jsonl")
        self.pictures = Pictures(self.folder / "pictures.jsonl")
        self.given = given_captions(config, self.loaded)
        self.direct = is_direct(config)
        self.to_caption = Captions(config)
        self.to_answer_itself = DirectAnswers(self.to_caption)
        self.to_answer = Answers(config)
        self.judging = Judging(config, self.judgements)
        self._units: dict[tuple[str, str], Unit] = {}
        self._answer_keys: dict[tuple[str, str, int], str] = {}
        self._scores: dict[tuple[str, str, str], Scored] = {}

    def items(self) -> Iterator[tuple[LoadedBenchmark, Item]]:
        """All items, benchmark by benchmark."""
        for loaded in self.loaded:
            for item in loaded.items:
                yield loaded, item

    def unit(self, loaded: LoadedBenchmark, item: Item) -> Unit:
        """What is captioned for an item; one with captions from elsewhere is known by them."""
        name = loaded.benchmark.name, item.id
        if name not in self._units:
            unit = self.to_caption.unit(item)
            if given := self.given.get(name):
                key = key_of("given", [reply.text for reply in given], unit.media_key)
                unit = replace(unit, key=key)
            self._units[name] = unit
        return self._units[name]

    # --- stages -------------------------------------------------------------------------------

    def caption(self) -> None:
        """Captions every image and video once, however many questions are asked about it."""
        numbers = range(self.config.captioner.n)
        wanted = (p for p in self.items() if (p[0].benchmark.name, p[1].id) not in self.given)
        units = {unit.key: unit for unit in (self.unit(*pair) for pair in wanted)}
        missing = {
            key: [i for i in numbers if self._wanted(self.captions, unit.caption_key(i))]
            for key, unit in units.items()
        }
        requests = (
            request
            for key, unit in units.items()
            for request in self.to_caption.requests(unit, missing[key])
        )

        def keep(result: Result) -> None:
            self.pictures.add(units[unit_key(result.key)].media_key, result.pictures)
            self.captions.add(result.key, result.reply)

        total = sum(map(len, missing.values()))
        self._run("caption", self.config.captioner, total, requests, keep)

    def answer(self) -> None:
        """Asks the reader every question on every caption that there is."""
        if self.direct:
            self._answer_itself()
            return
        missing = {
            key: (loaded, item, number)
            for loaded, item in self.items()
            if loaded.benchmark.asks_reader
            for number in range(self.config.captioner.n)
            if (key := self.answer_key(loaded, item, number)) and self._wanted(self.answers, key)
        }
        requests = (self._question(*asked) for asked in missing.values())
        keep = self._keep_in(self.answers)
        self._run("answer", self.config.reader, len(missing), requests, keep)

    def _answer_itself(self) -> None:
        """Asks the captioner every question, with the media in view."""
        numbers = range(self.config.captioner.n)
        missing = [
            (loaded, item, [i for i in numbers if self._lacks_answer(loaded, item, i)])
            for loaded, item in self.items()
        ]
        media = {
            self.to_answer_itself.key(loaded.benchmark, item): self.unit(loaded, item).media_key
            for loaded, item, wanted in missing
            if wanted
        }
        requests = (
            request
            for loaded, item, wanted in missing
            for request in self.to_answer_itself.requests(loaded.benchmark, item, wanted)
        )

        def keep(result: Result) -> None:
            self.pictures.add(media[unit_key(result.key)], result.pictures)
            self.answers.add(result.key, result.reply)

        total = sum(len(wanted) for _, _, wanted in missing)
        self._run("answer", self.config.captioner, total, requests, keep)

    def _lacks_answer(self, loaded: LoadedBenchmark, item: Item, number: int) -> bool:
        return self._wanted(self.answers, self._answer_key(loaded, item, number))

    def judge(self) -> None:
        """Asks the judge what no rule can decide, each step after the one that it depends on."""
        total = self.judging.count(self._all_cases())
        backlog = Backlog(self.judging, self._all_cases())
        self._run("judge", self.config.judge, total, backlog.requests(), backlog.keep)

    def _keep_in(self, store: Store) -> Callable[[Result], None]:
        return lambda result: store.add(result.key, result.reply)

    def _wanted(self, store: Store, key: str) -> bool:
        reply = store.get(key)
        return reply is None or bool(reply.failure and not self.config.run.keep_failed)

    def _run(
        self,
        stage: str,
        config: ModelConfig,
        total: int,
        requests: Iterable[Request | None],
        keep: Callable[[Result], None],
    ) -> None:
        """`requests`, `total` replies at least, are made as the model has room for them."""
        if not total:
            return
        run = self.config.run
        quiet = not sys.stderr.isatty()
        opened = open_model(
            config, self.config.media, run.seed, replicas=run.replicas, cluster=run.ray
        )
        with (
            closing(opened) as model,
            tqdm(
                total=total,
                desc=stage,
                unit=stage,
                disable=not run.progress,
                mininterval=30 if quiet else 0.2,
            ) as bar,
        ):
            for result in model.complete(requests):
                keep(result)
                bar.update()

    # --- what is known ------------------------------------------------------------------------

    def caption_of(self, loaded: LoadedBenchmark, item: Item, number: int) -> Reply | None:
        """What the captioner said outside its thoughts; missing where it said nothing else.

        Where the captioner answers itself, an empty text.
        """
        if self.direct:
            return Reply("")
        if given := self.given.get((loaded.benchmark.name, item.id)):
            return _without_thoughts(given[number])
        return _without_thoughts(self.captions.get(self.unit(loaded, item).caption_key(number)))

    def _question(self, loaded: LoadedBenchmark, item: Item, number: int) -> Request:
        """What the reader is asked about a caption that there is."""
        caption = self.caption_of(loaded, item, number)
        assert caption is not None and caption.text is not None
        return self.to_answer.request(loaded.benchmark, item, number, caption.text)

    def answer_key(self, loaded: LoadedBenchmark, item: Item, number: int) -> str | None:
        """Of what the reader says about a caption; None where there is no caption."""
        caption = self.caption_of(loaded, item, number)
        if caption is None or caption.text is None:
            return None
        return self._answer_key(loaded, item, number)

    def _answer_key(self, loaded: LoadedBenchmark, item: Item, number: int) -> str:
        name = loaded.benchmark.name, item.id, number
        if name not in self._answer_keys:
            if self.direct:
                key = f"{self.to_answer_itself.key(loaded.benchmark, item)}-{number}"
            else:
                key = self._question(loaded, item, number).keys[0]
            self._answer_keys[name] = key
        return self._answer_keys[name]

    def answer_of(self, loaded: LoadedBenchmark, item: Item, number: int) -> Reply | None:
        """The reader's reply; missing where its thoughts were cut off (a zero by rule caprl)."""
        key = self.answer_key(loaded, item, number)
        reply = self.answers.get(key) if key else None
        if reply is None or reply.text is None or self.config.run.rule == "caprl":
            return reply
        cut_off = said(reply.text).cut_off
        table = "captioner" if self.direct else "reader"
        failure = f"answer: {CUT_OFF}; raise {table}.max_tokens"
        return replace(reply, text=None, failure=failure) if cut_off else reply

    def output_of(self, loaded: LoadedBenchmark, item: Item, number: int) -> Reply | None:
        """What is scored: the reader's answer, or a caption that no reader is asked about."""
        of = self.answer_of if loaded.benchmark.asks_reader else self.caption_of
        return of(loaded, item, number)

    def score(self, loaded: LoadedBenchmark, item: Item, number: int) -> Scored | None:
        """What the rule says of an output; None where there is none."""
        answer = self.output_of(loaded, item, number)
        if answer is None or answer.text is None:
            return None
        name = loaded.benchmark.name, item.id, answer.text
        if name not in self._scores:
            try:
                found: Scored = loaded.benchmark.score(item, answer.text, self.config.run.rule)
            except ValueError as error:  # a gold that the rule cannot use
                found = f"rule: {error}"
            except Exception as error:  # an answer that it cannot: one verdict is missing, not all
                found = f"rule: {type(error).__name__}: {error}"
            if isinstance(found, ToJudge):  # of many long captions: made anew, not kept
                return found
            self._scores[name] = found
        return self._scores[name]

    def cases(self, loaded: LoadedBenchmark, item: Item, number: int) -> list[Case]:
        """The repeated judgements that an output needs; none where a rule decides."""
        score = self.score(loaded, item, number)
        output = self.output_of(loaded, item, number)
        if not isinstance(score, ToJudge) or output is None:
            return []
        read = partial(loaded.benchmark.judged, item, output.text or "")
        return [Case(item, score, read, i) for i in range(self.judging.repeats)]

    def _all_cases(self) -> Iterator[Case]:
        for loaded, item in self.items():
            for number in range(self.config.captioner.n):
                yield from self.cases(loaded, item, number)

    def judged(self, loaded: LoadedBenchmark, item: Item, number: int) -> list[Judged]:
        """How far the judgements of an output have come."""
        return [self.judging.judged(case) for case in self.cases(loaded, item, number)]

    def verdict(self, loaded: LoadedBenchmark, item: Item, number: int) -> Verdict | None:
        """Of a rule, or the mean of a judge's; None where there is none."""
        score = self.score(loaded, item, number)
        if isinstance(score, Verdict):
            return score
        return combined([j.verdict for j in self.judged(loaded, item, number)])

    def close(self) -> None:
        for store in (self.captions, self.answers, self.judgements, self.pictures):
            store.close()
        self._lock.close()


@lru_cache(maxsize=4096)  # many questions are asked about a caption
def _without_thoughts(reply: Reply | None) -> Reply | None:
    """A caption's reply as the reader gets it; the store keeps all that the captioner wrote."""
    if reply is None or reply.text is None:
        return reply
    caption = said(reply.text)
    if reply.text.strip() and not caption.text.strip():
        reason = CUT_OFF if caption.cut_off else "the reply holds thoughts and nothing else"
        return replace(reply, text=None, failure=f"caption: {reason}; raise captioner.max_tokens")
    return reply if caption.text == reply.text else replace(reply, text=caption.text.strip())


class Pictures:
    """What the report shows of media, by their key; the first of a key stays."""

    def __init__(self, path: Path) -> None:
        self._log = JsonLog(path)
        self.found: dict[str, list[Picture]] = {}
        for number, record in enumerate(self._log.records(), 1):
            try:
                self.found[record["key"]] = [Picture(**p) for p in record["pictures"]]
            except (KeyError, TypeError) as error:
                raise self._log.damaged(number, "it holds no pictures") from error

    def add(self, key: str, pictures: tuple[Picture, ...]) -> None:
        if pictures and key not in self.found:
            self.found[key] = list(pictures)
            self._log.add({"key": key, "pictures": [asdict(p) for p in pictures]})

    def close(self) -> None:
        self._log.close()
