"""Decoding in processes that can be ended: a limit of time, a limit of memory, no crash of ours.

A process decodes one medium at a time and lives on for the next. There are as many as were needed
at once, that is, one in a loader's worker process, and one for each thread of an evaluation.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from caprl_native.config.media import MediaConfig
from caprl_native.data.decode_worker import LENGTH, READY, Answer, clock_limit
from caprl_native.types import MediaRef

_MEDIA = 1000  # that a process decodes: libraries do not give all of their memory back
_START_SECONDS = 120  # to import what it needs; a slow disk is no fault of a file
# Not `-m`: what the module defines would be pickled as the main program's.
_PROGRAM = "from caprl_native.data.decode_worker import main; main()"
_PACKAGES = str(Path(__file__).resolve().parents[2])


class DecodeFailed(Exception):
    """A medium that cannot be decoded; its text is the reason."""


def run_decoder(medium: MediaRef, config: MediaConfig) -> tuple[np.ndarray, Answer]:
    """uint8 RGB pixels `[H, W, 3]`, of a video `[T, H, W, 3]`, and its metadata.

    Raises `DecodeFailed`; `RuntimeError` where no decoder can be started.
    """
    try:
        with _borrowed() as decoder:
            return decoder.decode(medium, config)
    except _Killed:  # by the machine, or someone: not for the file's sake, or not for its alone
        with _borrowed() as decoder:
            return decoder.decode(medium, config)


class _Killed(DecodeFailed):
    """Something else has ended the process."""


class _Ended(Exception):
    """The process is gone."""


class _Late(Exception):
    """The time is over."""


class Decoder:
    """A process that decodes; after a failure that it may not survive it is `usable` no more."""

    def __init__(self) -> None:
        paths = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._in, self._out):
            os.set_blocking(pipe, False)
        self.usable, self._decoded = True, 0
        try:
            self._receive(bytearray(len(READY)), time.monotonic() + _START_SECONDS)
        except (_Ended, _Late):
            self.close()
            raise RuntimeError(
                "the process that decodes media does not start; its error is above"
            ) from None

    @property
    def alive(self) -> bool:
        return self.usable and self._process.poll() is None

    def decode(self, medium: MediaRef, config: MediaConfig) -> tuple[np.ndarray, Answer]:
        """Pixels and metadata of one medium. Raises `DecodeFailed`."""
        limit = clock_limit(config)
        until = time.monotonic() + limit
        self.usable = False  # until it has answered in full
        try:
            body = pickle.dumps((medium, config))
            self._send(len(body).to_bytes(LENGTH, "little") + body, until)
            head = self._receive(bytearray(LENGTH), until)
            said = self._receive(bytearray(int.from_bytes(head, "little")), until)
            answer: Answer = pickle.loads(said)
            pixels = np.empty(answer.shape if not answer.reason else 0, np.uint8)
            self._receive(pixels, until)
        except _Late:
            waited = f"no answer within {limit:g} s; it may wait for a disk or a network"
            raise DecodeFailed(f"{waited} (media.decode_seconds)") from None
        except _Ended:
            raise self._death(config) from None
        self._decoded += 1
        self.usable = not answer.broken and self._decoded < _MEDIA
        if answer.reason:
            raise DecodeFailed(answer.reason)
        return pixels, answer

    def _send(self, data: bytes, until: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self._in, select.POLLOUT, until)
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _Ended from None

    def _receive(self, room: Any, until: float) -> Any:
        """Fills `room`, a bytearray or an array."""
        rest = memoryview(room).cast("B") if len(room) else memoryview(b"")
        while rest:
            self._wait(self._out, select.POLLIN, until)
            try:
                got = os.readv(self._out, [rest])
            except BlockingIOError:
                continue
            if not got:
                raise _Ended
            rest = rest[got:]
        return room

    def _wait(self, pipe: int, event: int, until: float) -> None:
        left = until - time.monotonic()
        poll = select.poll()
        poll.register(pipe, event)
        if left <= 0 or not poll.poll(1000 * left):
            raise _Late

    def _death(self, config: MediaConfig) -> DecodeFailed:
        """How the process ended, in words about the file."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return DecodeFailed("the decoder stopped answering")
        if code == -signal.SIGKILL:
            return _Killed("the decoder was killed twice: the machine may be short of memory")
        if code == -signal.SIGPROF:
            limit = f"{config.decode_seconds:g} s to decode (media.decode_seconds)"
            return DecodeFailed(f"took over {limit}")
        if code < 0:
            return DecodeFailed(f"the decoder crashed on it (signal {-code})")
        return DecodeFailed(f"the decoder ended on it (exit code {code})")

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self.usable = False
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            return  # it waits for a disk or a network; the kernel ends it when that answers


# The decoders of this process that no one uses at the moment.
_idle: list[Decoder] = []
_lock = threading.Lock()


@contextmanager
def _borrowed() -> Iterator[Decoder]:
    decoder = _take() or Decoder()
    try:
        yield decoder
    finally:
        if decoder.alive:
            with _lock:
                _idle.append(decoder)
        else:
            decoder.close()


def _take() -> Decoder | None:
    while True:
        with _lock:
            decoder = _idle.pop() if _idle else None
        if decoder is None or decoder.alive:
            return decoder
        decoder.close()  # it ended while it had nothing to do: no file's fault


def close_decoders() -> None:
    """Ends the decoders of this process that are idle; they restart when they are needed."""
    with _lock:
        decoders = list(_idle)
        _idle.clear()
    for decoder in decoders:
        decoder.close()


def _forget() -> None:
    """A forked process leaves its parent's decoders to it."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


atexit.register(close_decoders)
os.register_at_fork(after_in_child=_forget)
