"""Captions with small pictures of their media, as the backends show them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, islice
from typing import Any

from PIL import Image

from caprl_native.observe.backends import Backend
from caprl_native.observe.pictures import Pictures

COLUMNS = ("step", "id", "picture", "caption", "total", "advantage", "rewards", "finish_reason")
_pictures = Pictures()  # of samples that come again


@dataclass(frozen=True)
class TableRow:
    """A caption. `picture`: of its first medium; None where it cannot be opened."""

    record: dict[str, Any]
    picture: Image.Image | None


def table_rows(records: Sequence[dict[str, Any]], groups: int) -> list[TableRow]:
    """The captions of the first groups."""
    found: list[TableRow] = []
    for _, its in islice(groupby(records, key=lambda record: record["id"]), groups):
        captions = list(its)
        picture = _picture(captions[0])
        found += [TableRow(record, picture) for record in captions]
    return found


def _picture(record: dict[str, Any]) -> Image.Image | None:
    uri = next((medium["picture"] for medium in _pictures.of(record)), None)
    if uri is None:
        return None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def log_table(backend: Backend, rows: Sequence[TableRow], step: int) -> None:
    """A table in Weights & Biases; in TensorBoard a text and a picture for each group."""
    if (wandb := getattr(backend, "_wandb", None)) is not None and wandb.run:
        _to_wandb(wandb, rows, step)
    elif (writer := getattr(backend, "_writer", None)) is not None:
        _to_tensorboard(writer, rows, step)


def _to_wandb(wandb: Any, rows: Sequence[TableRow], step: int) -> None:
    table = wandb.Table(columns=list(COLUMNS))
    for row in rows:
        picture = wandb.Image(row.picture) if row.picture else None
        known = row.record | {"step": step, "picture": picture}
        known["rewards"] = _rewards(row.record)
        table.add_data(*(known[name] for name in COLUMNS))
    wandb.log({"captions": table, "global_step": step})


def _to_tensorboard(writer: Any, rows: Sequence[TableRow], step: int) -> None:
    """Its texts are Markdown, and a group has a number, not its name: tags are to be few."""
    groups = [list(its) for _, its in groupby(rows, key=lambda row: row.record["id"])]
    for number, group in enumerate(groups):
        lines = ["| total | rewards | caption |", "| --- | --- | --- |"]
        lines += [f"| {r['total']} | {_rewards(r)} | {_cell(r['caption'])} |" for r in _of(group)]
        name = _cell(str(group[0].record["id"]))
        writer.add_text(f"captions/{number}", f"{name}\n\n" + "\n".join(lines), step)
        if (picture := group[0].picture) is not None:
            writer.add_image(f"captions/{number}", _pixels(picture), step, dataformats="HWC")


def _of(group: Sequence[TableRow]) -> list[dict[str, Any]]:
    return [row.record for row in group]


def _pixels(picture: Image.Image) -> Any:
    import numpy as np

    return np.asarray(picture.convert("RGB"))


def _rewards(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in record["rewards"].items())


def _cell(text: str) -> str:
    """Text that stays in its cell, and is no markup."""
    return escape(" ".join(text.split())).replace("|", "&#124;").replace("`", "&#96;")
