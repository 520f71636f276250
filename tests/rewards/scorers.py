"""What users bring: functions and classes that the tests of custom terms name by import path."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future

from caprl_native.rewards.base import Caption, Score

released = threading.Event()  # ends the calls that hang


def words(caption: Caption, per: int = 10) -> float:
    """The later a caption comes, the sooner it is scored."""
    time.sleep(0.002 * (10 - int(caption.key[-1])))
    return len(caption.text.split()) / per


async def words_async(caption: Caption) -> Score:
    await asyncio.sleep(0.002 * (10 - int(caption.key[-1])))
    return Score(len(caption.text.split()) / 10, reading=[{"words": caption.text.split()}])


class Called:
    def __init__(self, options: dict) -> None:
        self.per = options.get("per", 10)

    def __call__(self, caption: Caption) -> float:
        return len(caption.text.split()) / self.per


class CalledAsync(Called):
    async def __call__(self, caption: Caption) -> float:
        await asyncio.sleep(0.001)
        return len(caption.text.split()) / self.per


class Batched(Called):
    """Scores all at once when it is told that no more come, as a model in this process would."""

    collective = True

    def __init__(self, options: dict) -> None:
        super().__init__(options)
        self.waiting: list[tuple[Caption, Future[float]]] = []
        self.told: list[str] = []

    def submit(self, caption: Caption) -> Future[float]:
        self.waiting.append((caption, Future()))
        return self.waiting[-1][1]

    def begin(self, step: int) -> None:
        self.told.append(f"begin {step}")

    def finish(self) -> None:
        for caption, future in reversed(self.waiting):
            future.set_result(self(caption))
        self.waiting = []
        self.told.append("finish")

    def close(self) -> None:
        self.told.append("close")


def nothing(caption: Caption) -> None:
    """Has no score."""


def fails(caption: Caption) -> float:
    raise KeyError(f"https://me:sesame@server/{caption.text}")


def ends_the_iteration(caption: Caption) -> float:
    return next(iter(()))


async def fails_async(caption: Caption) -> float:
    raise KeyError(caption.text)


def not_a_number(caption: Caption) -> float:
    return float("nan")


def a_text(caption: Caption) -> str:
    return "0.5"


def no_reason(caption: Caption) -> Score:
    return Score(None)


def hangs(caption: Caption) -> float:
    return float(released.wait(600))


async def hangs_async(caption: Caption) -> float:
    await asyncio.sleep(600)
    return 1.0


async def blocks(caption: Caption) -> float:
    """As a coroutine should not."""
    return float(released.wait(600))


class NeverDone(Called):
    def submit(self, caption: Caption) -> Future[float]:
        return Future()


class Refuses(Called):
    def submit(self, caption: Caption) -> Future[float]:
        raise ValueError("no")


CONSTANT = 3.0
