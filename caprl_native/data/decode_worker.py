"""A process that decodes media, one at a time: it may be killed, and its memory is limited.

Its other side is `decoders`. Over its standard input come, and over its standard output go, a
length (8 bytes, little-endian), so many bytes of pickle, and of an answer the raw pixels.
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import threading
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from caprl_native.config.media import MediaConfig
from caprl_native.data.images import read_image
from caprl_native.data.sizes import Unusable, fit_for_processors
from caprl_native.data.sources import open_medium
from caprl_native.data.videos import read_video
from caprl_native.types import MediaRef

READY = b"ready\n"
LENGTH = 8
_GRACE = 30  # seconds after the limit, when the other side should have ended this process
_WAITS = (10.0, 60.0)  # times the limit, and seconds, that a decoder may take by the clock
GIB = 2**30


@dataclass(frozen=True)
class Answer:
    """`shape` of the pixels (uint8, RGB) that follow, and a video's metadata; or what went wrong.

    `broken`: of memory; the process should be replaced.
    """

    shape: tuple[int, ...] = ()
    metadata: dict[str, Any] | None = None
    reason: str = ""
    broken: bool = False


def clock_limit(config: MediaConfig) -> float:
    """Seconds by the clock after which a decoder is taken to wait for ever, for a disk or a
    network. Its limit is one of a core's time: what is skipped must not depend on what else a
    machine does."""
    times, least = _WAITS
    return max(times * config.decode_seconds, least)


def main() -> None:
    """Decodes until its input ends."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends the process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what they mean is for the other side to decide
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    answers.write(READY)
    answers.flush()
    while (request := _read(requests)) is not None:
        medium, config = request
        signal.setitimer(signal.ITIMER_PROF, config.decode_seconds)
        # Where even the other side has died, the kernel ends what hangs.
        signal.setitimer(signal.ITIMER_REAL, clock_limit(config) + _GRACE)
        answer, pixels = _answer(medium, config)
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        _write(answers, answer, pixels)


def _end_with_the_input() -> None:
    """Ends the process in the middle of its work when the other side is gone."""
    poll = select.poll()
    poll.register(0, 0)
    poll.poll()
    os._exit(1)


def _read(requests: BinaryIO) -> tuple[MediaRef, MediaConfig] | None:
    head = requests.read(LENGTH)
    if len(head) < LENGTH:
        return None
    return pickle.loads(requests.read(int.from_bytes(head, "little")))


def _write(answers: BinaryIO, answer: Answer, pixels: np.ndarray | None) -> None:
    body = pickle.dumps(answer)
    answers.write(len(body).to_bytes(LENGTH, "little") + body)
    if pixels is not None:
        answers.write(np.ascontiguousarray(pixels).data.cast("B"))
    answers.flush()


def _answer(medium: MediaRef, config: MediaConfig) -> tuple[Answer, np.ndarray | None]:
    limit = int(config.decode_gib * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    try:
        pixels, metadata = decoded(medium, config)
        return Answer(pixels.shape, metadata), pixels
    except MemoryError:
        pass
    except Exception as error:  # decoders raise nearly anything on damaged input
        if not _is_of_memory(error):
            return Answer(reason=_reason(error)), None
    # Said here, where the memory that was tried for is free again.
    needed = f"{config.decode_gib:g} GiB to be decoded (media.decode_gib)"
    return Answer(reason=f"needs over {needed}", broken=True), None


def decoded(medium: MediaRef, config: MediaConfig) -> tuple[np.ndarray, dict[str, Any] | None]:
    if medium.kind == "video":
        return read_video(medium, config)
    with open_medium(medium) as source:
        image = read_image(source, config.image_max_pixels)
    size = fit_for_processors(*image.size, config.image_min_pixels, config.image_max_pixels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image), None


def _is_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return "out of memory" in text or "cannot allocate memory" in text or "bad_alloc" in text


def _reason(error: Exception) -> str:
    """One line that says what is wrong with the file, and nothing of a decoder's insides."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, OSError) and error.strerror and not _of_library(error):
        return error.strerror
    if "truncated" in str(error).lower():
        return "the file is truncated"
    return "it is damaged and cannot be decoded"


def _of_library(error: Exception) -> bool:
    return type(error).__module__.startswith("av.")
