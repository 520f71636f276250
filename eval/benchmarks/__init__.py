"""All benchmarks by name: those of the files of this folder, and those that plugins register."""

from __future__ import annotations

from eval.benchmarks.base import BENCHMARKS, Benchmark


def benchmarks() -> dict[str, Benchmark]:
    """Name -> benchmark, images' first, then by name."""
    found = {name: BENCHMARKS[name].value for name in BENCHMARKS}
    return dict(sorted(found.items(), key=lambda pair: (pair[1].modality, pair[0])))
