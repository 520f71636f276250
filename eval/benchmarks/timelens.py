"""TimeLens-Bench."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, registered
from eval.items import Broken, Item, Verdict
from eval.scoring.grounding import Span, grounding_metrics, parse_spans, span_iou
from eval.scoring.words import answer_parts


@registered
class TimeLens(Benchmark):
    """When does an event happen? Charades, ActivityNet and QVHighlights, re-annotated.

    Source: the data set's JSON files (`charades-timelens.json`, ...): an object of video names with
    `{"duration": seconds, "spans": [[start, end], ...], "queries": [text, ...]}`; each query is an
    item. Videos lie at `videos/<data set>/<name>.mp4`, or flat, below the media root.
    Rule: the first span of time in the answer against the gold: mIoU, and R1@m, the share of
    answers whose IoU is at least m. An answer without a span has IoU 0.
    Citation: J. Zhang, T. Wang, Y. Ge, Y. Ge, X. Li, Y. Shan, L. Wang, "TimeLens: Rethinking Video
    Temporal Grounding with Multimodal LLMs", CVPR 2026.
    """

    name = "timelens"
    title = "TimeLens-Bench"
    modality = "video"
    metric = "mIoU"
    instruction = (
        "Answer from the caption alone, with one span of time and nothing else, in the form "
        '"From X to Y seconds".'
    )
    direct_instruction = (
        'Answer with one span of time and nothing else, in the form "From X to Y seconds".'
    )

    def rows(self, path: Path) -> Iterator[Row | Broken]:
        """A row per query; its source is the file, the video and the query's number."""
        for row in super().rows(path):
            if isinstance(row, Broken) or not isinstance(row.value, dict):
                yield row
                continue
            try:
                yield from _queries(row)
            except FieldError as error:
                yield Broken(row.source, str(error))

    def item(self, row: Row, files: Files) -> Item:
        video = row.value["video"].removesuffix(".mp4") + ".mp4"
        dataset = row.file.stem.removesuffix("-timelens")
        path = files.medium(
            row.file, f"videos/{dataset}/{video}", f"{dataset}/{video}", f"videos/{video}", video
        )
        query = " ".join(row.text("query").split()).strip(" .")
        return Item(
            id=row.name,
            media=(MediaRef("video", path),),
            question=f'When does this happen: "{query}"?',
            answer=_span(row.value["span"], row.value["duration"]),
            groups={"dataset": row.file.stem},
            source=row.source,
        )

    def score(self, item: Item, output: str, rule: Rule) -> Verdict:
        said = next((part for part in answer_parts(output) if parse_spans(part)), "")
        if not said:
            return Verdict(0.0)
        start, end = parse_spans(said)[0]
        return Verdict(span_iou((start, end), item.answer), f"{start:g} - {end:g} s")

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        ious = [verdict.score for _, verdict in scored if verdict]
        found = grounding_metrics(ious) if ious else {}
        return {name: value for name, value in found.items() if name != self.metric}


def _queries(row: Row) -> Iterator[Row]:
    """A row for each query of a video. Raises `FieldError` where spans and queries do not pair."""
    video = row.source.removeprefix(f"{row.file}:")
    spans, queries = row.value.get("spans"), row.value.get("queries")
    if not isinstance(queries, list) or not queries:
        raise FieldError("queries", "missing or empty", "give a list of texts")
    if not isinstance(spans, list) or len(spans) != len(queries):
        raise FieldError("spans", f"not one for each of {len(queries)} queries", "give as many")
    for number, (span, query) in enumerate(zip(spans, queries, strict=True)):
        value = {
            "video": video,
            "duration": row.value.get("duration"),
            "span": span,
            "query": query,
        }
        yield Row(value, f"{row.source}#{number}", row.file)


def _span(span: Any, duration: Any) -> Span:
    """Start and end in seconds, inside the video. Raises `FieldError`."""
    if not isinstance(span, list) or len(span) != 2 or not all(map(_is_time, span)):
        raise FieldError("spans", f"{span!r} is no span", "give [start, end] in seconds")
    if not _is_time(duration):
        raise FieldError("duration", f"{duration!r} is no length", "give seconds")
    start, end = map(float, span)
    if end <= start:
        raise FieldError("spans", f"the end, {end:g}, is not after the start, {start:g}", "swap")
    if start >= duration:
        raise FieldError("spans", f"{start:g} lies after the video's end, {duration:g}", "check")
    return start, end


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0
