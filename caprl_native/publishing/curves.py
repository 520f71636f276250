"""Curves of a run, from metrics.jsonl to a picture."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprl_native.publishing.errors import PublishError

Metrics = Mapping[str, Any]
# The panels, and the metrics in each; one without a value in the run is left out.
PANELS = {
    "reward": r"(eval/)?reward/[^/]+/mean",
    "loss": r"policy/loss",
    "accuracy of tokens": r"policy/accuracy",
    "tokens of a caption": r"(eval/)?completion/length_mean",
    "entropy": r"policy/entropy",
    "KL": r"policy/kl",
    "trainer - engine, |log-prob|": r"mismatch/logprob_abs_mean",
}
MOST = 4  # panels; the first that there are


def read_metrics(file: Path, until: int | None = None) -> list[Metrics]:
    """The lines of metrics.jsonl up to a step; a last line without its end is left out.

    Raises PublishError where a line is no object with a step.
    """
    text = file.read_text("utf-8")
    found = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            metrics = json.loads(line)
            if metrics["step"] <= (math.inf if until is None else until):
                found.append(metrics)
        except (ValueError, KeyError, TypeError) as error:
            raise PublishError(f"{file}: line {number} is no metrics of a step: {error}") from error
    return found


def panels(metrics: Sequence[Metrics]) -> dict[str, list[str]]:
    """The panels that a run has, each with the names of its metrics."""
    names = list(dict.fromkeys(name for line in metrics for name in line))
    found = {
        title: [name for name in names if re.fullmatch(pattern, name)]
        for title, pattern in PANELS.items()
    }
    return dict([(title, of) for title, of in found.items() if of][:MOST])


def draw(metrics: Sequence[Metrics], file: Path) -> bool:
    """Writes the picture (PNG); False, and none, where no panel has a value."""
    shown = panels(metrics)
    if not shown:
        return False
    import matplotlib

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # building its cache
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = (len(shown) + 1) // 2
    size = (10, 3.2 * rows)
    figure, grid = plt.subplots(rows, 2, figsize=size, dpi=110, squeeze=False)
    for axes, title in zip(grid.flat, [*shown, *([None] * (2 * rows - len(shown)))], strict=True):
        axes.set_visible(title is not None)
        if title is not None:
            _panel(axes, title, shown[title], metrics)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
    return True


def _panel(axes: Any, title: str, names: Iterable[str], metrics: Sequence[Metrics]) -> None:
    for name in names:
        points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
        held_out = name.startswith("eval/")
        axes.plot(*zip(*points, strict=True), marker="o" if held_out else None, label=name)
    axes.set(xlabel="step", title=title)
    axes.legend(frameon=False, fontsize=8)
