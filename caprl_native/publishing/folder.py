"""The folder that is uploaded: an export's files, a card, the recipe and the curves."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli

from caprl_native.policy.model_check import check_directory, read_config
from caprl_native.publishing.card import Card
from caprl_native.publishing.curves import Metrics, draw, read_metrics
from caprl_native.publishing.errors import PublishError
from caprl_native.redact import redact

CARD, CURVES, RECIPE = "README.md", "curves.png", "recipe.toml"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Wanted:
    """What the user says of the model."""

    license: str
    name: str = ""  # default: the run's
    base_model: str = ""
    tags: Sequence[str] = ()
    step: int | None = None  # default: the checkpoint's that the export lies in
    evaluations: Sequence[str] = ()


def run_of(export: Path) -> Path | None:
    """The folder of the run that an export lies in (`export/`, `checkpoints/step_N/hf/`)."""
    parents = Path(os.path.abspath(export)).parents[:3]
    return next((p for p in parents if (p / "config.toml").is_file()), None)


def step_of(export: Path) -> int | None:
    """The step of the checkpoint that an export lies in."""
    found = re.fullmatch(r"step_(\d+)", Path(os.path.abspath(export)).parent.name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Upload:
    """What a folder is made of, all of it looked at."""

    export: Path
    card: Card
    metrics: Sequence[Metrics]

    def write(self, folder: Path) -> None:
        """Makes the folder."""
        shutil.copytree(self.export, folder)
        drawn = draw(self.metrics, folder / CURVES)
        card = replace(self.card, curves=CURVES if drawn else "")
        (folder / RECIPE).write_text(card.recipe, "utf-8")
        (folder / CARD).write_text(redact(card.text()), "utf-8")


def prepare(export: Path, run: Path, wanted: Wanted) -> Upload:
    """Looks at everything that `Upload.write` needs.

    Raises:
        ModelError: the export is no usable model directory.
        PublishError: the run's config or metrics cannot be read, or the license is none.
    """
    if not _LICENSE.fullmatch(wanted.license):
        raise PublishError(
            f"license {wanted.license!r}: expected an identifier such as apache-2.0 or other"
        )
    sees = "vision_config" in read_config(export)
    check_directory(export, processor=sees)
    recipe, config = _recipe(run / "config.toml")
    step = step_of(export) if wanted.step is None else wanted.step
    metrics_file = run / "metrics.jsonl"
    metrics = read_metrics(metrics_file, step) if metrics_file.is_file() else []
    card = Card(
        name=wanted.name or str(config.get("run", {}).get("name") or run.resolve().name),
        license=wanted.license,
        config=config,
        recipe=recipe,
        sees=sees,
        base_model=wanted.base_model,
        tags=wanted.tags,
        step=metrics[-1]["step"] if metrics and step is None else step,
        evaluations=wanted.evaluations,
    )
    return Upload(export, card, metrics)


def _recipe(file: Path) -> tuple[str, dict[str, Any]]:
    """The text of a run's config without secrets, and its tables."""
    try:
        text = redact(file.read_text("utf-8"))
        return text, tomli.loads(text)
    except (OSError, ValueError) as error:
        raise PublishError(f"{file} cannot be read ({error}): name the run's folder") from error
