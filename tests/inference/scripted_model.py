"""A model without an engine, for tests of what is around one: some of its requests kill it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from caprl_native.inference.models import Request, Result
from caprl_native.inference.store import Reply


@dataclass
class ScriptedModel:
    """Echoes each key after `seconds`; dies over "poison", raises over "broken", is lost in
    "endless"."""

    seconds: float = 0.0

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Result]:
        for request in requests:
            if request is None:
                return
            time.sleep(self.seconds)
            for key in request.keys:
                if key.startswith("poison"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if key.startswith("endless"):
                    time.sleep(3600)
                if key.startswith("broken"):
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                yield Result(key, Reply(said(key, request.seed), 1, "stop"))

    def close(self) -> None: ...


def said(key: str, seed: int) -> str:
    return f"{key} {seed}"


def never_loads() -> ScriptedModel:
    raise OSError("/no/such/model: it has no config.json")


def request(name: str, seed: int = 0, n: int = 1) -> Request:
    """Of one reply under its name, or of n under "name-0", "name-1" ..."""
    keys = (name,) if n == 1 else tuple(f"{name}-{i}" for i in range(n))
    return Request(keys, ({"role": "user", "content": "Describe"},), seed)
