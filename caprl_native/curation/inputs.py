"""What is curated: images and videos as entries, in a fixed order, read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from caprl_native.curation.config import CurationConfig
from caprl_native.data.inputs import Inputs
from caprl_native.data.inputs.inputs import shard_of
from caprl_native.data.invalid import Invalid
from caprl_native.data.listing import Entry
from caprl_native.data.records import read_records
from caprl_native.rewards.prompts import says_cannot_answer
from caprl_native.types import MediaRef

CLIP = "is a part of a video, or a folder of frames; training data name whole files: make it one"


def entries(config: CurationConfig) -> tuple[Iterator[Entry], Callable[[], float] | None]:
    """The inputs of a run, or of its shard, each time in the same order; and how far they are read.

    Raises DataError for files that cannot be read.
    """
    if config.run.recheck:
        k, m = config.shard
        of_shard = (e for e in _recheck(config) if shard_of(e.id, m) == k)
        return islice(of_shard, config.input.limit or None), None
    given = config.input
    inputs = Inputs(given.files, media_root=given.media_root, limit=given.limit, shard=config.shard)
    return map(_bare, inputs), inputs.fraction


def _bare(entry: Entry) -> Entry:
    """An input without its other columns, which decide on nothing here."""
    problem = entry.problem
    if not problem and any(m.start or m.end or m.fps for m in entry.media):
        problem = f"{entry.source or entry.id}: {CLIP}"
    return replace(entry, columns={}, problem=problem)


def _recheck(config: CurationConfig) -> Iterator[Entry]:
    """The records of a data set with questions, to be answered and filtered once more.

    Columns: `questions` as `questions.jsonl` has them, and the record's `prompt`. Raises DataError.
    """
    invalid = Invalid(questions="drop", max_share=1.0, no_answer=says_cannot_answer)
    records = read_records([config.run.recheck], config.input.media_root, invalid=invalid)
    for i in range(len(records)):
        sample = records[i]
        questions = [
            {"question": q.question, "choices": list(q.choices), "answer": q.answer, "line": 0}
            for q in sample.questions
        ]
        yield Entry(sample.id, sample.media, {"questions": questions}, records.place(i))


def described(media: Iterable[MediaRef]) -> list[dict[str, Any]]:
    """Media as the files of the stages name them: without embedded bytes."""
    return [
        {name: value for name, value in asdict(replace(m, data=None)).items() if value}
        for m in media
    ]
