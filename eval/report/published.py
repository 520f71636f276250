"""Published figures, and what may be compared with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# By name: the run, and of each benchmark best of n and mean, in shares.
PUBLISHED: dict[str, tuple[str, dict[str, tuple[float, float]]]] = {
    "caprl-3b-1800": (
        "CapRL-3B step 1800",
        {"charxiv": (0.541, 0.3255), "chartqapro": (0.5476, 0.3996)},
    ),
}
CAPTIONS = 4  # per image, of which the best counts
PREFIXES = ("prism_", "Prism_")


def is_published(name: str) -> bool:
    return name.lower() in PUBLISHED


def reference_files(name: str) -> list[Path]:
    """The reference's files of results that a path means: itself, or those in a folder."""
    path = Path(name)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
    return [f for f in files if f.name.startswith(PREFIXES) and f.suffix == ".json"]


def comparison_problem(name: str) -> str:
    """Why there is nothing under this name to compare with; "" where there is."""
    if is_published(name) or Path(name, "summary.json").is_file() or reference_files(name):
        return ""
    known = ", ".join(PUBLISHED)
    return (
        f"{name} has no summary.json, and is no file or folder of the reference's results "
        f"(Prism_*, prism_*); give folders of finished runs, such files, or one of {known}"
    )


def published(name: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The run's name, and of each benchmark `best`, `mean` and `n`."""
    title, figures = PUBLISHED[name.lower()]
    parts = {
        benchmark: {"best": best, "mean": mean, "n": CAPTIONS}
        for benchmark, (best, mean) in figures.items()
    }
    return title, parts
