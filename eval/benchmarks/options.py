"""Choices that stand in a question's text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from caprl_native.data.choices import LETTERS

_LINE_LABEL = re.compile(r"^[ \t]*(?:\(([A-Z])\)|([A-Z])[.):])\s*", re.MULTILINE)
_LABEL = re.compile(r"(?<!\S)(?:\(([A-Z])\)|([A-Z])[.):])\s*")
_HEADING = re.compile(r"\s*(?:options|choices)\s*:?\s*\Z", re.IGNORECASE)


def parse_options(text: str) -> tuple[str, ...]:
    """The choices in a question's text, without their labels; none where they have no texts.

    Labels "A. x", "A) x", "A: x" or "(A) x" that run A, B, C, ..., at the beginnings of lines or
    else in one line; of several such runs the last. What follows the last choice's line is no
    part of it.
    """
    for labels in (_LINE_LABEL, _LABEL):
        run = _last_run(list(labels.finditer(text)))
        if run:
            ends = [label.start() for label in run[1:]] + [len(text)]
            texts = [text[label.end() : end] for label, end in zip(run, ends, strict=True)]
            texts[-1] = texts[-1].partition("\n")[0]
            # Labels in prose have no texts: "which of (A), (B) or (C)?"
            return (
                tuple(t.strip().rstrip(",;") for t in texts)
                if all(t.strip(" \n,;.?") for t in texts)
                else ()
            )
    return ()


def without_options(text: str) -> str:
    """A question without the choices that `parse_options` finds in it, and their heading."""
    for labels in (_LINE_LABEL, _LABEL):
        if run := _last_run(list(labels.finditer(text))):
            before = _HEADING.sub("", text[: run[0].start()])
            after = text[run[-1].end() :].partition("\n")[2]
            return f"{before.strip()}\n{after.strip()}".strip()
    return text


def _last_run(labels: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The last run of labels A, B, ... of two or more."""
    starts = [i for i, label in enumerate(labels) if _label(label) == "A"]
    for start in reversed(starts):
        run: list[re.Match[str]] = []
        for label in labels[start:]:
            if _label(label) == LETTERS[len(run) : len(run) + 1]:
                run.append(label)
        if len(run) > 1:
            return run
    return []


def _label(label: re.Match[str]) -> str:
    return label[1] or label[2]
