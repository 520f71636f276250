"""What was made of media, for the requests that follow with the same ones.

A question about an image is asked in many rounds, and a video has many questions: their requests
come one after the other, and the file is decoded once for all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from caprl_native.data.media import MediaError
from caprl_native.inference.models import Request
from caprl_native.types import MediaRef

T = TypeVar("T")


class Recent(Generic[T]):
    """What `make` makes of a request's media, kept for the last `keep` different ones.

    Of requests that come at the same time, in several threads, one makes it and the others wait.
    What is given is shared: it must not be changed. A failure is not kept.
    """

    def __init__(self, make: Callable[[Request], T], keep: int) -> None:
        self._make, self._keep = make, keep
        self._recent: OrderedDict[tuple[MediaRef, ...], Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: Request) -> T:
        """Raises what `make` raises; `MediaError` under this request's name."""
        made, is_new = self._entry(request.media)
        if is_new:
            try:
                made.set_result(self._make(request))
            except BaseException as error:
                self._drop(request.media, made)
                made.set_exception(error)
        try:
            return made.result()
        except MediaError as error:
            raise MediaError(request.name, error.name, error.reason) from None

    def _entry(self, media: tuple[MediaRef, ...]) -> tuple[Future[T], bool]:
        with self._lock:
            if found := self._recent.get(media):
                self._recent.move_to_end(media)
                return found, False
            made = self._recent[media] = Future()
            while len(self._recent) > self._keep:
                self._recent.popitem(last=False)
            return made, True

    def _drop(self, media: tuple[MediaRef, ...], made: Future[T]) -> None:
        with self._lock:
            if self._recent.get(media) is made:
                del self._recent[media]
