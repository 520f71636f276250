"""Words in a run's captions, questions and answers, without holding them in memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from caprl_native.viewer.run import Run, StepFile

_LONGEST_S = 10.0
_WORD = re.compile(r'"([^"]+)"|([^\s"]+)')  # as search.js has it


def words_of(query: str) -> list[str]:
    """'red "fire truck"' -> ["red", "fire truck"], in lower case."""
    return [(phrase or word).lower() for phrase, word in _WORD.findall(query)]


def search(run: Run, query: str) -> dict[str, Any]:
    """Groups in which all words are: `found`, as [kind, step, number]; `complete`: whether the time
    was enough to look at all of them, the newest first."""
    words, found, until = words_of(query), list[list[Any]](), time.monotonic() + _LONGEST_S
    steps = sorted(run.steps, key=lambda step: -step.step)
    for step in steps:
        if time.monotonic() > until:
            return {"found": found, "complete": False}
        found += [[step.kind, step.step, number] for number in _in_step(step, words)]
    return {"found": found, "complete": True}


def _in_step(step: StepFile, words: Sequence[str]) -> Iterator[int]:
    # As they stand in the file; a group without them there has them nowhere.
    raw = [json.dumps(word, ensure_ascii=False)[1:-1] for word in words]
    for number, data in step.groups():
        text = data.decode(errors="replace").lower()
        if all(word in text for word in raw) and _has(data, words):
            yield number


def _has(data: bytes, words: Sequence[str]) -> bool:
    texts: list[str] = []
    for line in data.splitlines():
        texts += _texts(json.loads(line))
    text = "\n".join(texts).lower()
    return all(word in text for word in words)


def _texts(record: dict[str, Any]) -> Iterator[str]:
    """What is searched: as `textsOf` of the page."""
    yield from (record["id"], record["caption"], record.get("failure") or "", *record["media"])
    for entry in record["reader"]:
        said = (entry.get("question"), *entry.get("choices", ()), entry.get("answer"))
        yield from (text for text in said if isinstance(text, str))
