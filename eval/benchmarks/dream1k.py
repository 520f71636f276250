"""DREAM-1K."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Benchmark, Files, Row, Rule, read_json_lines, read_rows, registered
from eval.benchmarks.judging import about_caption
from eval.items import Broken, Item, ToJudge, Verdict
from eval.scoring.autodq import (
    EVENTS,
    RELATION,
    autodq,
    entailed,
    f1_of,
    read_events,
    read_relations,
)

EXTRACT = (
    "You list the events that a caption of a video tells. An event is something that is done or "
    "that happens: an action, a motion, a change. How things look, where they are and what mood "
    "there is are no events; neither are cuts and movements of the camera. An event is one action: "
    "split what can be split. Write each as a short sentence of at most 10 words that names who "
    'does it, never "he", "she" or "it". List at most 10 events, the most important ones, each '
    'once, in order. Reply with one JSON object and nothing else: {"events": ["...", "..."]}, with '
    "an empty list if nothing happens."
)
RELATE = (
    "You get a caption of a video, and a numbered list of events. Say of each event how the "
    'caption relates to it. "entailment": it says or implies that the event happens. '
    '"contradiction": something in it speaks against the event. "neutral": neither. Reply with one '
    'JSON object and nothing else, with an entry for each event: {"events": [{"number": 1, '
    '"relationship": "entailment"}, ...]}'
)
SIZES = {  # how many there are of them: the last that does not go beyond, or "more"
    "subjects": ((1, "1 or none"), (2, "2"), (3, "3")),
    "shots": ((1, "1"), (2, "2"), (3, "3")),
    "events": ((3, "up to 3"), (5, "4 to 5"), (7, "6 to 7")),
}


@registered
class Dream1K(Benchmark):
    """1,000 short videos, from films to TikTok, each with a description and its events.

    Source: `DREAM-1k.jsonl` of Tarsier's repository (`idx`, `vid`, `dataset`, `text.response`,
    `extra_info` with `events`, `n_subjects`, `n_shots`, `n_events`), or the data set's
    `metadata.json` with the same flat (`video_file`, `source`, `description`). Videos lie in
    `video/`, `videos/` or flat, as `video_file` says, or as `<vid>.mp4`.
    Rule: AutoDQ. A judge lists the caption's events; recall is the share of the reference's events
    that the caption entails, precision the share of the caption's that the reference entails. The
    score of a video is its F1; `F1`, `recall` and `precision` are of means over the videos of each
    source, and then over sources. Where the data have no events, the judge lists the reference's.
    Here a caption without events has precision 0 (the authors' script: 1), a reference without any
    is a broken row (1 there), and texts are not put in lower case.
    Citation: J. Wang, L. Yuan, Y. Zhang, H. Sun, "Tarsier: Recipes for Training and Evaluating
    Large Video Description Models", arXiv 2407.00634, 2024.
    """

    name = "dream1k"
    title = "DREAM-1K"
    modality = "video"
    metric = "F1 of a video"
    headline = ("F1", "recall", "precision")
    judged_by_model = True
    asks_reader = False

    def rows(self, path: Path) -> Iterator[Row | Broken]:
        """The data set's metadata.json may be one JSON value, or one on each line."""
        if path.suffix.lower() == ".json" and _is_lines(path):
            return read_json_lines(path)
        return read_rows(path)

    def item(self, row: Row, files: Files) -> Item:
        value = {**row.value, **_of(row, "extra_info")}
        value["description"] = _of(row, "text").get("response", value.get("description"))
        flat = Row(value, row.source, row.file)
        source = flat.text("source", "dataset", default="").rpartition("/")[2]
        name = flat.text("idx", "vid", default=row.name)
        counted = {kind: _size(kind, value.get(f"n_{kind}")) for kind in SIZES}
        return Item(
            id=name,
            media=(MediaRef("video", _video(flat, files)),),
            question="What happens in the video?",
            answer=_events(value),
            groups={k: v for k, v in {"source": source, **counted}.items() if v},
            extra={"reference": flat.text("description"), "source": source},
            source=row.source,
        )

    def score(self, item: Item, output: str, rule: Rule) -> ToJudge:
        if item.answer is None:
            read = partial(_listed_reference, item, output)
            return _listing(item.extra["reference"], read)
        return _judged_caption(item, output, item.answer)

    def metrics(self, scored: Sequence[tuple[Item, Verdict | None]]) -> dict[str, float]:
        parts = [
            (item.extra["source"], verdict.detail["recall"], verdict.detail["precision"])
            for item, verdict in scored
            if verdict
        ]
        return {name: 100 * value for name, value in autodq(parts).items()}


# --- the steps of a judgement -----------------------------------------------------------------


def _listing(text: str, read: Any) -> ToJudge:
    return ToJudge(about_caption(EXTRACT, text, "List the events of the caption.", EVENTS), read)


def _relating(text: str, events: Sequence[str], read: Any) -> ToJudge:
    numbered = "\n".join(f"{number}. {event}" for number, event in enumerate(events, 1))
    request = f"The events:\n{numbered}"
    return ToJudge(about_caption(RELATE, text, request, EVENTS, RELATION), read)


def _listed_reference(item: Item, caption: str, reply: str) -> ToJudge | None:
    gold = read_events(reply)
    return _judged_caption(item, caption, gold) if gold else None


def _judged_caption(item: Item, caption: str, gold: Sequence[str]) -> ToJudge:
    return _listing(caption, partial(_listed_caption, item, caption, gold))


def _listed_caption(item: Item, caption: str, gold: Sequence[str], reply: str) -> ToJudge | None:
    told = read_events(reply)
    if told is None:
        return None
    return _relating(caption, gold, partial(_recalled, item, gold, told))


def _recalled(
    item: Item, gold: Sequence[str], told: Sequence[str], reply: str
) -> Verdict | ToJudge | None:
    recalled = read_relations(reply, len(gold))
    if recalled is None:
        return None
    if not told:
        return _verdict(gold, recalled, told, [])
    return _relating(item.extra["reference"], told, partial(_checked, gold, recalled, told))


def _checked(
    gold: Sequence[str], recalled: Sequence[str], told: Sequence[str], reply: str
) -> Verdict | None:
    relations = read_relations(reply, len(told))
    return None if relations is None else _verdict(gold, recalled, told, relations)


def _verdict(
    gold: Sequence[str], recalled: Sequence[str], told: Sequence[str], relations: Sequence[str]
) -> Verdict:
    recall, precision = entailed(recalled), entailed(relations)
    detail = {
        "recall": recall,
        "precision": precision,
        "reference's events": dict(zip(gold, recalled, strict=True)),
        "caption's events": dict(zip(told, relations, strict=True)),
    }
    return Verdict(f1_of(recall, precision), f"{len(told)} events", detail)


# --- fields -----------------------------------------------------------------------------------


def _is_lines(path: Path) -> bool:
    """Whether a file's first line is a JSON object of its own, and another follows."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first, second = file.readline(), file.readline()
        return isinstance(json.loads(first), dict) and bool(second.strip())
    except (OSError, ValueError, RecursionError):  # read_rows says what is wrong with it
        return False


def _of(row: Row, name: str) -> dict[str, Any]:
    value = row.value.get(name)
    return value if isinstance(value, dict) else {}


def _video(row: Row, files: Files) -> str:
    names = [row.text("video_file", default=""), row.text("vid", "idx", default="") + ".mp4"]
    known = [name for name in names if name not in ("", ".mp4", "<placeholder>")]
    if not known:
        raise FieldError("video_file", "missing", "give the video's file, or its vid")
    if Path(known[0]).is_absolute():
        return files.medium(row.file, known[0])
    return files.medium(row.file, *(f"{f}{n}" for n in known for f in ("video/", "videos/", "")))


def _events(value: dict[str, Any]) -> list[str] | None:
    """The reference's events; None where the data have none. Raises `FieldError`."""
    listed = value.get(EVENTS)
    if listed is None:
        return None
    if isinstance(listed, str):
        listed = read_events(f'{{"events": {listed}}}')
    if not isinstance(listed, list) or not listed:
        raise FieldError(EVENTS, "no list of events", "give a list of texts, or leave it out")
    if not all(isinstance(event, str) and event.strip() for event in listed):
        raise FieldError(EVENTS, "expected texts", "give a list of texts")
    return [event.strip() for event in listed]


def _size(kind: str, count: Any) -> str:
    try:
        number = int(count)
    except (TypeError, ValueError):
        return ""
    bounds = SIZES[kind]
    return next((name for most, name in bounds if number <= most), f"{bounds[-1][0] + 1} or more")
