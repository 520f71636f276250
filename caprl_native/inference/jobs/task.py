"""What a job does with each entry: the requests about it, and what becomes of their replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from caprl_native.data.listing import Entry
from caprl_native.inference.models import Request
from caprl_native.inference.store import Reply


@dataclass(frozen=True)
class Outcome:
    """What became of an entry: a record (anything JSON can hold), a failure, or `again`.

    `again`: further requests, under keys that were not used; `Task.finish` is called once more when
    their replies are there. `counts` are summed over the job and shown (tokens, captions cut off).
    """

    record: dict[str, Any] | None = None
    failure: str = ""
    again: Sequence[Request] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class Task(Protocol):
    """One kind of job; tasks derive from it.

    Keys of requests are the task's own, unique within an entry ("0", "1").
    """

    @property
    def identity(self) -> list[Any]:
        """What its results depend on, beside the entry: model, prompt, sampling, seed."""
        ...

    def content(self, entry: Entry) -> str:
        """What the result depends on beside `identity`: of equal ones the first alone is asked
        about, and the others share its result. Empty: each is asked about. (A record of such a task
        names neither the entry nor its media: those are each entry's own.)"""
        return ""

    def requests(self, entry: Entry) -> Sequence[Request]:
        """What is asked about an entry; none: `finish` is called at once, without replies."""
        ...

    def finish(self, entry: Entry, replies: Mapping[str, Reply]) -> Outcome:
        """What becomes of an entry whose requests all have replies, none of them for want of a
        model: such an entry is left to the next run."""
        ...
