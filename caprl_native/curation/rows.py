"""Rows of the training file, in the layout of the released sets."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from caprl_native.curation.config import CurationConfig
from caprl_native.data.chats import DEFAULT_PROMPTS
from caprl_native.data.choices import LETTERS
from caprl_native.data.listing import Entry
from caprl_native.files import atomic_write
from caprl_native.seeds import rng_of
from caprl_native.types import MediaRef

_GROUP_BYTES, _GROUP_ROWS = 64 << 20, 1000
Row = dict[str, Any]


def truth(question: dict[str, Any], seed: int, shuffle: bool) -> dict[str, Any]:
    """A question as the released sets write it; its choices in an order that the seed draws."""
    order = list(range(len(question["choices"])))
    if shuffle:
        key = ("curation", "letters", seed, question["question"], *question["choices"])
        rng_of(*key).shuffle(order)
    choices = [f"{LETTERS[i]}) {question['choices'][k]}" for i, k in enumerate(order)]
    place = order.index(question["answer"])
    # Where choices are letters themselves, "A" alone would mean two of them.
    letters = any(text.strip(" ().:").upper() in set(LETTERS) for text in question["choices"])
    answer = choices[place] if letters else LETTERS[place]
    return {"question": question["question"], "choices": choices, "answer": answer}


def row_of(entry: Entry, questions: Sequence[dict[str, Any]], config: CurationConfig) -> Row:
    """A row without provenance. Images are embedded where the settings say so, or have no file.

    Raises OSError where a file is gone.
    """
    kind = "video" if any(m.kind == "video" for m in entry.media) else "image"
    embed = config.output.embed
    images = [_file(m, embed) for m in entry.media if m.kind == "image"]
    videos = [os.path.abspath(m.path or "") for m in entry.media if m.kind == "video"]
    given = config.output.video_prompt if kind == "video" else config.output.image_prompt
    marks = "".join(f"<{m.kind}>\n" for m in entry.media)
    return {
        "id": entry.id,
        "image": images[0] if len(images) == 1 and not videos else None,
        "images": images if len(images) > 1 or (images and videos) else None,
        "videos": videos or None,
        "prompt": [{"role": "user", "content": marks + (given or DEFAULT_PROMPTS[kind])}],
        "data_source": f"{kind}_caption_rl",
        "reward_model": {"style": "rule", "ground_truth": list(questions)},
    }


def _file(medium: MediaRef, embed: bool) -> dict[str, Any]:
    path = os.path.abspath(medium.path) if medium.path else medium.label or None
    if medium.data is not None:
        return {"bytes": medium.data, "path": path}
    return {"bytes": Path(medium.path or "").read_bytes() if embed else None, "path": path}


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Images as paths, or as data URLs."""
    with atomic_write(path) as file:
        for row in rows:
            plain = {name: value for name, value in row.items() if value is not None}
            if "image" in plain:
                plain["image"] = _text(plain["image"])
            if "images" in plain:
                plain["images"] = [_text(image) for image in plain["images"]]
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def _text(image: dict[str, Any]) -> str:
    data, path = image["bytes"], image["path"]
    if data is None:
        return str(path)
    kind = mimetypes.guess_type(path or "")[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """Row groups of at most 64 MiB or 1,000 rows; the file appears whole or not at all."""
    import pyarrow.parquet as pq

    temporary = path.with_name(path.name + ".tmp")
    try:
        with pq.ParquetWriter(temporary, _schema()) as writer:
            for group in _groups(rows):
                writer.write_table(_table(group), row_group_size=len(group))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        images = [row["image"]] if row["image"] else row["images"] or []
        size += sum(len(image["bytes"] or b"") for image in images)
        if size >= _GROUP_BYTES or len(group) >= _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(rows: list[Row]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=_schema())


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.list_(pa.float64())
    image = pa.struct([("bytes", pa.binary()), ("path", text)])
    turn = pa.struct([("role", text), ("content", text)])
    question = pa.struct([("question", text), ("choices", pa.list_(text)), ("answer", text)])
    reward = pa.struct([("style", text), ("ground_truth", pa.list_(question))])
    return pa.schema(
        [
            ("id", text),
            ("image", image),
            ("images", pa.list_(image)),
            ("videos", pa.list_(text)),
            ("prompt", pa.list_(turn)),
            ("data_source", text),
            ("reward_model", reward),
            ("visual_accuracy", number),
            ("text_accuracy", number),
            ("visual_accuracy2", number),
            ("text_accuracy2", number),
            ("writer", text),
            ("solver", text),
            ("solver2", text),
            ("source", text),
        ]
    )
