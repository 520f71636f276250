"""Prompts that are prepared ahead: in order, within bounds, together for an engine that idles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from caprl_native.inference import ahead
from caprl_native.inference.ahead import Ahead, Ready
from caprl_native.inference.models import Request
from caprl_native.types import MediaRef
from tests.inference.scripted_model import request

WORKERS = 2


def pictured(i: int) -> Request:
    return replace(request(f"r{i}"), media=(MediaRef("image", f"{i}.png"),))


class Maker:
    """Takes a while for what has media, and knows how many it makes at once."""

    def __init__(self, seconds: float = 0.0, size: int = 0) -> None:
        self.seconds, self.size = seconds, size
        self.threads: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Ready:
        with self._lock:
            self.threads.append(threading.current_thread().name)
        time.sleep(self.seconds if request.media else 0)
        return Ready(request, size=self.size)


@contextmanager
def preparing(make: Maker, requests: Iterator[Request | None], most: int) -> Iterator[Ahead]:
    with ThreadPoolExecutor(WORKERS, "prepare") as pool:
        yield Ahead(pool, make, requests, WORKERS, most)


def test_they_come_in_order_and_the_input_is_read_so_far_and_no_further() -> None:
    read = []

    def requests() -> Iterator[Request]:
        for i in range(50):
            read.append(i)
            yield pictured(i)

    with preparing(Maker(0.001), requests(), most=10) as prepared:
        found = []
        while one := prepared.next(wait_for_it=True):
            found.append(one.request.keys[0])
            assert len(read) <= len(found) + 10
    assert found == [f"r{i}" for i in range(50)]


def test_an_idle_engine_gets_those_of_a_moment_together_and_waits_no_longer_for_a_slow_one() -> (
    None
):
    with preparing(Maker(0.002), map(pictured, range(30)), most=20) as prepared:
        prepared.gather()
        ready = [prepared.next(wait_for_it=False) for _ in range(20)]
        assert all(ready)
    with preparing(Maker(1.0), map(pictured, range(2)), most=20) as prepared:
        began = time.monotonic()
        prepared.gather()
        assert time.monotonic() - began < 0.9
        assert prepared.next(wait_for_it=False) is None


def test_large_media_wait_by_the_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MOST_BYTES", 1000)
    make = Maker(size=400)
    with preparing(make, map(pictured, range(100)), most=64) as prepared:
        prepared.gather()
        most = 3 + 2 * WORKERS  # those with room, and those that were under way
        assert 3 <= len(make.threads) <= most
        names = [prepared.next(wait_for_it=True) for _ in range(100)]
    assert all(names) and len(make.threads) == 100


def test_texts_are_made_in_the_thread_that_asks() -> None:
    make = Maker()
    given: Iterator[Request | None] = iter([pictured(0), request("t"), None, request("u")])
    with preparing(make, given, most=8) as prepared:
        prepared.gather()
        here = threading.current_thread().name
        assert set(make.threads) == {here, "prepare_0"}
        assert [prepared.next(True) is None for _ in range(4)] == [False] * 3 + [True]
