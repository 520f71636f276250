"""What a run says when it fails: one message, from one rank.

A failure that is explained by its own text (wrong data, no checkpoint, a dead reader) is printed
without a traceback. Ranks that fail because another one has left its collectives stay silent.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store


class RunError(RuntimeError):
    """The run cannot go on, and the message says all there is to say."""


@contextmanager
def one_voice(*explained: type[Exception]) -> Iterator[None]:
    """Turns an exception into exit code 1; the first rank to fail prints it, at once.

    Exceptions of the `explained` kinds are printed as `error: <text>`, others with their traceback.
    """
    store = _get_default_store()
    try:
        yield
    except Exception as error:
        if _is_first(store):
            if isinstance(error, explained):
                print(f"error: {error}", file=sys.stderr, flush=True)
            else:
                traceback.print_exc()
        raise SystemExit(1) from None


def _is_first(store: dist.Store) -> bool:
    try:
        return store.add("caprl_native/failed", 1) == 1
    except dist.DistError:  # its host is gone: better said twice than never
        return True
