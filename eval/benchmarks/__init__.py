"""All benchmarks by name: every subclass of `Benchmark` in the files of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from eval.benchmarks.base import Benchmark


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Name -> benchmark, images' first, then by name.

    Raises ValueError where two files give the same name.
    """
    found: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        for member in members:
            if not (isinstance(member, type) and issubclass(member, Benchmark)):
                continue
            if member.__module__ != f"{__name__}.{module.name}" or not hasattr(member, "name"):
                continue
            if member.name in found:
                raise ValueError(f"two benchmarks are named {member.name}")
            found[member.name] = member()
    return dict(sorted(found.items(), key=lambda pair: (pair[1].modality, pair[0])))
