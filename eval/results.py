"""From replies to results: a record per item, and a summary per benchmark."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caprl_native.inference.store import key_of
from caprl_native.rewards.prompts import PROMPT_VERSION
from eval.config import PrismConfig, captions_needed, chosen, is_direct, reader_needed
from eval.evaluation import Evaluation
from eval.items import Item, ToJudge, Verdict
from eval.judging import why_missing
from eval.plan import LoadedBenchmark, model_identity
from eval.scoring.stats import bootstrap_interval

MEDIA = "media: "  # opens the reason where a caption is missing for its media's sake
DURATIONS = ((60, "0 to 1 min"), (180, "1 to 3 min"), (600, "3 to 10 min"))  # up to: seconds
NOT_RUN = "not run"
_VARYING = re.compile(r"\S*/\S*|'[^']*'|\d+")
LONGEST = "10 min and more"
Record = dict[str, Any]


def records(evaluation: Evaluation) -> Iterator[Record]:
    """A record for every item, in the order of the files."""
    for loaded, item in evaluation.items():
        yield record_of(evaluation, loaded, item)


def record_of(evaluation: Evaluation, loaded: LoadedBenchmark, item: Item) -> Record:
    """All that is known about an item; what is missing is null, with the reason beside it."""
    numbers = range(evaluation.config.captioner.n)
    captions = [_caption(evaluation, loaded, item, number) for number in numbers]
    scores = [c["verdict"]["score"] for c in captions if c["verdict"]]
    unit = evaluation.unit(loaded, item)
    pictures = evaluation.pictures.found.get(unit.media_key, [])
    media = []
    for i, medium in enumerate(item.media):
        picture = pictures[i] if i < len(pictures) else None
        media.append(
            {
                "kind": medium.kind,
                "path": medium.name,
                "picture": f"{unit.media_key}-{i}" if picture else None,
                "duration": picture.duration if picture else None,
                "times": list(picture.times) if picture else [],
            }
        )
    return {
        "id": item.id,
        "benchmark": loaded.benchmark.name,
        "media": media,
        "question": item.question,
        "choices": list(item.choices),
        "answer": item.answer,
        "groups": _groups(item, media),
        "captions": captions,
        "mean": statistics.fmean(scores) if scores else None,
        "best": max(scores) if len(scores) == len(captions) else None,  # of fewer it is less
        "source": item.source,
        "captioned": unit.key,
    }


def _groups(item: Item, media: Sequence[Record]) -> dict[str, str]:
    """The item's own, and how long its video is where the data do not say."""
    seconds = next((m["duration"] for m in media if m["duration"]), None)
    if seconds is None or "duration" in item.groups:
        return item.groups
    kind = next((name for most, name in DURATIONS if seconds <= most), LONGEST)
    return item.groups | {"duration": kind}


def _caption(evaluation: Evaluation, loaded: LoadedBenchmark, item: Item, number: int) -> Record:
    caption = evaluation.caption_of(loaded, item, number)
    found: Record = {
        "text": caption.text if caption else None,
        "tokens": caption.tokens if caption else None,
        "finish": caption.finish if caption else None,
        "missing": _why(caption),
        "answer": {"text": None, "tokens": None, "missing": "no caption"},
        "verdict": None,
        "judge": None,
    }
    if found["missing"]:
        return found
    asked = loaded.benchmark.asks_reader
    answer = evaluation.answer_of(loaded, item, number) if asked else None
    found["answer"] = {
        "text": answer.text if answer else None,
        "tokens": answer.tokens if answer else None,
        "missing": _why(answer) if asked else None,
    }
    if found["answer"]["missing"]:
        return found
    score = evaluation.score(loaded, item, number)
    verdict = evaluation.verdict(loaded, item, number)
    if isinstance(score, ToJudge):
        judged = evaluation.judged(loaded, item, number)
        reply = judged[0].reply
        found["judge"] = {"text": reply.text if reply else None, "missing": why_missing(judged)}
    elif isinstance(score, str):
        found["judge"] = {"text": None, "missing": score}
    if verdict:
        found["verdict"] = {"score": verdict.score, "said": verdict.said, "detail": verdict.detail}
    return found


def _why(reply: Any) -> str | None:
    """Why there is no reply; None where there is one."""
    if reply is None:
        return NOT_RUN
    return reply.failure if reply.text is None else None


# --- summary ----------------------------------------------------------------------------------


def summary(evaluation: Evaluation, found: Sequence[Record]) -> Record:
    """The run's figures; scores in per cent unless the benchmark counts points."""
    config = evaluation.config
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in found:
        by_name[record["benchmark"]].append(record)
    parts = {
        loaded.benchmark.name: _benchmark(evaluation, loaded, by_name[loaded.benchmark.name])
        for loaded in evaluation.loaded
    }
    lacking = missing(evaluation, found)
    direct = is_direct(config)
    captioner = config.captioner.path or config.captioner.model
    return {
        "run": config.run.name,
        "mode": config.run.mode,
        "captioner": captioner if direct or captions_needed(config) else _givers(config),
        "reader": captioner if direct else _reader(config),
        "judge": config.judge.path or config.judge.model,
        "reader_key": (
            key_of("direct") if direct else key_of(model_identity(config.reader), PROMPT_VERSION)
        ),
        "judge_key": key_of(model_identity(config.judge)),
        "rule": config.run.rule,
        "complete": not any(lacking.values()),
        "missing": lacking,
        "benchmarks": parts,
    }


def _reader(config: PrismConfig) -> str:
    """The reader's name; none where no benchmark asks it."""
    return (config.reader.path or config.reader.model) if reader_needed(config) else ""


def _givers(config: PrismConfig) -> str:
    """Where captions come from that the captioner did not write."""
    return ", ".join(path for given in chosen(config).values() for path in given.captions)


def missing(evaluation: Evaluation, found: Sequence[Record]) -> dict[str, int]:
    """What there is not, over all benchmarks."""
    return _missing(found, sum(len(loaded.broken) for loaded in evaluation.loaded))


def _benchmark(evaluation: Evaluation, loaded: LoadedBenchmark, found: Sequence[Record]) -> Record:
    config, benchmark = evaluation.config, loaded.benchmark
    factor = 100.0 if benchmark.unit == "%" else 1.0
    scored = _scored(found)
    units = {r["captioned"]: r["captions"] for r in found}
    captions = [c for of_unit in units.values() for c in of_unit if not c["missing"]]
    captions = [] if is_direct(config) else captions
    tokens = [c["tokens"] for c in captions if c["tokens"] is not None]
    kinds = sorted({kind for r in found for kind in r["groups"]})
    metrics = _metrics(evaluation, loaded)
    return {
        **benchmark.described(),
        "judged": any(c["judge"] for r in found for c in r["captions"]),
        "read": benchmark.asks_reader,
        "items": len(found),
        "scored": len(scored),
        "missing": _missing(found, len(loaded.broken)),
        **_figure("mean", scored, factor, config),
        **_figure("best", [r for r in found if r["best"] is not None], factor, config),
        "n": config.captioner.n,
        "caption_tokens": statistics.fmean(tokens) if tokens else None,
        "caption_characters": (
            statistics.fmean(len(c["text"]) for c in captions) if captions else None
        ),
        "metrics": _mean_of(metrics),
        "repeats": repeated(found, metrics, factor),
        "groups": {
            kind: {
                value: {"items": len(part), **_figure("mean", _scored(part), factor, config)}
                for value, part in _by_group(found, kind).items()
            }
            for kind in kinds
        },
        "broken": [{"source": b.source, "reason": b.reason} for b in loaded.broken],
    }


def _figure(name: str, scored: Sequence[Record], factor: float, config: PrismConfig) -> Record:
    """The mean over items, and its interval; items on the same media are drawn together.

    On one image or video alone there is no telling how it would be on others: no interval.
    """
    if not scored:
        return {name: None, f"{name}_ci": None}
    values = [r[name] * factor for r in scored]
    clusters = [_media_of(r) for r in scored]
    interval = None
    if len(set(clusters)) > 1:
        interval = list(bootstrap_interval(values, config.report.confidence, clusters=clusters))
    return {name: statistics.fmean(values), f"{name}_ci": interval}


def _media_of(record: Record) -> tuple[str, ...]:
    return tuple(m["path"] for m in record["media"])


def _scored(found: Sequence[Record]) -> list[Record]:
    return [r for r in found if r["mean"] is not None]


def _by_group(found: Sequence[Record], kind: str) -> dict[str, list[Record]]:
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in found:
        if kind in record["groups"]:
            parts[record["groups"][kind]].append(record)
    return dict(sorted(parts.items(), key=lambda part: _natural(part[0])))


def _natural(text: str) -> list[str | int]:
    """Sorts "3 to 10" before "10 and more": every second piece is a number."""
    return [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", text))]


def _missing(found: Sequence[Record], broken: int) -> dict[str, int]:
    """How much there is not; media and captions count once, however many questions are on them."""
    units = {r["captioned"]: [c["missing"] for c in r["captions"]] for r in found}
    captions = [c for r in found for c in r["captions"]]
    return {
        "rows": broken,
        "media": sum(any((w or "").startswith(MEDIA) for w in whys) for whys in units.values()),
        "captions": sum(bool(why) for whys in units.values() for why in whys),
        "answers": sum(bool(not c["missing"] and c["answer"]["missing"]) for c in captions),
        "judgements": sum(bool(c["judge"] and c["judge"]["missing"]) for c in captions),
    }


def reasons(evaluation: Evaluation, found: Sequence[Record]) -> list[tuple[str, int, str]]:
    """Why there is not what is missing: (what, how often, an example), the most frequent first.

    Reasons that differ in names of files and in numbers alone are one. What no stage has asked for
    yet needs none.
    """
    units = {r["captioned"]: r["captions"] for r in found}
    told = [("rows", b.reason) for loaded in evaluation.loaded for b in loaded.broken]
    told += [("captions", c["missing"]) for of_unit in units.values() for c in of_unit]
    captions = [c for r in found for c in r["captions"] if not c["missing"]]
    told += [("answers", c["answer"]["missing"]) for c in captions]
    told += [("judgements", c["judge"]["missing"]) for c in captions if c["judge"]]
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for what, why in told:
        if why and why != NOT_RUN:
            kind = what, _VARYING.sub("_", why)
            counts[kind] += 1
            examples.setdefault(kind, why)
    return [(kind[0], count, examples[kind]) for kind, count in counts.most_common()]


def _metrics(evaluation: Evaluation, loaded: LoadedBenchmark) -> list[dict[str, float]]:
    """The benchmark's further figures, of each of the repeated judgements."""
    pairs: list[list[tuple[Item, Verdict | None]]] = [[] for _ in range(evaluation.judging.repeats)]
    for item in loaded.items:
        for number in range(evaluation.config.captioner.n):
            for repeat, verdict in _told(evaluation, loaded, item, number):
                pairs[repeat].append((item, verdict))
    return [loaded.benchmark.metrics(of_repeat) for of_repeat in pairs if of_repeat]


def _told(
    evaluation: Evaluation, loaded: LoadedBenchmark, item: Item, number: int
) -> list[tuple[int, Verdict | None]]:
    """The verdict of each repeated judgement, None for a reply that has none.

    Where there is no reply there is no failure either: it is left out.
    """
    score = evaluation.score(loaded, item, number)
    if isinstance(score, Verdict):
        return [(repeat, score) for repeat in range(evaluation.judging.repeats)]
    judged = enumerate(evaluation.judged(loaded, item, number))
    return [(repeat, j.verdict) for repeat, j in judged if j.verdict or j.unreadable]


# --- repeated judgements ----------------------------------------------------------------------


def repeated(
    found: Sequence[Record], metrics: Sequence[Mapping[str, float]], factor: float
) -> Record | None:
    """Each repeated judgement's mean, and how far apart they are; None without repeats.

    `means` are over what all of them have judged, `std` is their sample standard deviation, and
    `metrics_std` that of each of the `metrics`, one table per repeat.
    """
    tables = [rows for r in found if (rows := _of_repeats(r))]
    if not tables or len(metrics) < 2:
        return None
    means = [statistics.fmean(of_repeat) * factor for of_repeat in zip(*tables, strict=True)]
    shared = [name for name in metrics[0] if all(name in m for m in metrics)]
    return {
        "n": len(means),
        "means": means,
        "std": statistics.stdev(means),
        "metrics_std": {name: statistics.stdev([m[name] for m in metrics]) for name in shared},
    }


def _of_repeats(record: Record) -> list[float]:
    """An item's mean over its captions, by repeat; of captions that all repeats have judged."""
    listed = []
    for verdict in (c["verdict"] for c in record["captions"] if c["verdict"]):
        scores = verdict["detail"].get("repeats")
        if scores and None not in scores:
            listed.append(scores)
    return [statistics.fmean(scores) for scores in zip(*listed, strict=True)]


def _mean_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's mean over the repeated judgements that have it."""
    names = dict.fromkeys(name for m in metrics for name in m)
    return {name: statistics.fmean([m[name] for m in metrics if name in m]) for name in names}
