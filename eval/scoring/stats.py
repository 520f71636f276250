"""Confidence intervals of a benchmark's score, by the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

# Resampled indices held at once, 8 MB of them, unless a single draw needs more.
_CELLS = 1_000_000


def bootstrap_interval(
    values: Sequence[float],
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Interval (low, high) of the mean of `values`, from the means of `draws` resamples.

    With `clusters`, one key per value, whole clusters are resampled: the questions about one image
    share its caption, and taken as independent they would make the interval too narrow. The same
    arguments give the same interval. Raises ValueError when `values` is empty or not finite, for
    `clusters` of another length, a `confidence` outside 0..1 or less than one draw.
    """
    if not 0 < confidence < 1 or draws < 1:
        raise ValueError(f"need 0 < confidence < 1 and draws >= 1, not {confidence} and {draws}")
    sums, sizes = _clustered(np.asarray(values, dtype=np.float64), clusters)
    means = _resampled_means(sums, sizes, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_interval(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Interval of the mean of `first` - `second`, two runs' values of the same items in order.

    Narrower than the two runs' own intervals suggest, since what makes an item hard for both
    cancels. Raises ValueError when the lengths differ, and as `bootstrap_interval` does.
    """
    if len(first) != len(second):
        raise ValueError(f"paired runs need the same items: {len(first)} and {len(second)} values")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap_interval(differences.tolist(), confidence, draws, seed, clusters)


def _clustered(
    values: np.ndarray, clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values in each cluster, both `[C]`; each value alone without them."""
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError("need a flat, non-empty sequence of finite values")
    if clusters is None:
        return values, np.ones_like(values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} cluster keys for {len(values)} values")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in clusters])
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def _resampled_means(
    sums: np.ndarray, sizes: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Means `[draws]` of resamples with replacement of as many clusters as there are."""
    count = len(sums)
    rows = max(1, _CELLS // count)
    means = np.empty(draws)
    for start in range(0, draws, rows):
        chosen = rng.integers(count, size=(min(rows, draws - start), count))
        means[start : start + rows] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return means
