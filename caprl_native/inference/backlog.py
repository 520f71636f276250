"""Which requests went to which process, and what becomes of those of a process that died.

A process may die over a request (a decoder that crashes, a prompt that an engine cannot bear) or by
chance, and what it was at, hundreds of requests, is all that is known. So they are asked again,
first in small groups that a process has for itself, then, if that one dies too, each alone. One
that a process died over when it had nothing else has failed; those beside it lose nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from caprl_native.inference.models import Request, Result
from caprl_native.inference.store import Reply

GROUP = 16  # requests that are asked again together after the first death
CRASH = "crash: "  # what a failure begins with that is the input's own
WHY = f"{CRASH}the model's process died over it, more than once"


@dataclass
class Asked:
    """A request, which of its keys have no reply yet, and how many processes died with it."""

    request: Request
    left: set[str] = field(default_factory=set)
    deaths: int = 0


class Share:
    """What one process was given and has not answered yet."""

    def __init__(self) -> None:
        self._open: dict[str, Asked] = {}
        self.given = 0  # requests since it was empty, answered ones included

    def __len__(self) -> int:
        """Replies that are still to come."""
        return len(self._open)

    def add(self, asked: Asked) -> None:
        self.given = self.given + 1 if self._open else 1
        self._open.update((key, asked) for key in asked.request.keys if key in asked.left)

    def answers(self, results: Iterable[Result]) -> list[Result]:
        """The results that were still to come; what was answered before is dropped."""
        return [result for result in results if self._closes(result.key)]

    def _closes(self, key: str) -> bool:
        asked = self._open.pop(key, None)
        if asked is not None:
            asked.left.discard(key)
        return asked is not None

    def take_all(self) -> list[Asked]:
        """The requests that lack a reply, in order; the share is empty afterwards."""
        found = list({id(asked): asked for asked in self._open.values()}.values())
        self._open = {}
        return found


class Backlog:
    """The requests of a call, read as they are needed, and those that are asked again."""

    def __init__(self, requests: Iterable[Request | None]) -> None:
        self._requests = iter(requests)
        self._next: Request | None = None
        self._again: deque[list[Asked]] = deque()

    def __bool__(self) -> bool:
        """Whether there is anything to give to a process now."""
        return bool(self._again) or self._peek() is not None

    def _peek(self) -> Request | None:
        if self._next is None:
            self._next = next(self._requests, None)
        return self._next

    def new(self, replies: int) -> list[Asked]:
        """Requests that were never asked, for at least so many replies where there are any left."""
        found = []
        while replies > 0 and (request := self._peek()) is not None:
            self._next = None
            found.append(Asked(request, set(request.keys)))
            replies -= len(request.keys)
        return found

    def group(self) -> list[Asked]:
        """Requests to be asked again, for a process that has nothing else; none where there are
        none."""
        return self._again.popleft() if self._again else []

    def lost(self, share: Share) -> list[Result]:
        """Takes back what a process that died had; returns the failures of what it died over."""
        alone, suspects = share.given == 1, share.take_all()
        for asked in suspects:
            asked.deaths += 1
        if alone and suspects and suspects[0].deaths > 1:
            keys = (key for key in suspects[0].request.keys if key in suspects[0].left)
            return [Result(key, Reply(failure=WHY)) for key in keys]
        once = [asked for asked in suspects if asked.deaths == 1]
        self._again.extend(once[i : i + GROUP] for i in range(0, len(once), GROUP))
        self._again.extendleft([asked] for asked in reversed(suspects) if asked.deaths > 1)
        return []


def requests_of(asked: Iterable[Asked]) -> Iterator[Request]:
    return (one.request for one in asked)
