"""One directory into the other format: what its config.json is decides the direction.

Everything is compared before anything is written: a model of transformers' class without weights
says which tensors there are.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caprl_native.convert_internvl.configs import (
    chat_config,
    chat_problems,
    own_config,
    own_problems,
    tiles,
)
from caprl_native.convert_internvl.files import (
    TOKENS,
    code_problems,
    load_processor,
    load_tokenizer,
    processor_problems,
    token_problems,
    video_token,
    write_authors,
    write_own,
)
from caprl_native.convert_internvl.names import (
    HEAD,
    NotConvertible,
    Row,
    Shape,
    file_name,
    table,
    tensor_problems,
)
from caprl_native.messages import shown
from caprl_native.model_directory import (
    SHARD_BYTES,
    Outgoing,
    new_directory,
    read_tensor,
    refuse_existing,
    write_weights,
)
from caprl_native.policy.model import load_hf
from caprl_native.policy.model_check import (
    ModelError,
    TensorEntry,
    check_directory,
    check_head,
    read_config,
    tensors,
)

AUTHORS, OWN = "internvl_chat", "internvl"


@dataclass(frozen=True)
class Request:
    """`code`: a folder with the authors' Python files, for a directory in their format."""

    source: Path
    target: Path
    shard_bytes: int = SHARD_BYTES
    code: Path | None = None


@dataclass(frozen=True)
class Report:
    """`format`: the result's model_type; `notes`: what a user should know of it."""

    format: str
    read: int
    written: int
    notes: list[str]


def convert(request: Request) -> Report:
    """Writes `request.target` in the format that `request.source` is not in.

    Raises:
        ModelError: the source cannot be read, or not be converted (`NotConvertible`).
        RunError: the target is there already, or cannot be written.
    """
    refuse_existing(request.target)
    kind = read_config(request.source).get("model_type")
    if kind == AUTHORS:
        return _to_own(request)
    if kind == OWN:
        return _to_authors(request)
    raise ModelError(
        f"{request.source}: model_type {shown(kind)} is neither {AUTHORS} (the authors' format) "
        f"nor {OWN} (transformers')"
    )


def _to_own(request: Request) -> Report:
    source = request.source
    chat = read_config(source)
    if problems := chat_problems(chat):
        raise NotConvertible(source, problems)
    tokenizer = load_tokenizer(source)
    config = own_config(chat, tokenizer.get_vocab().get(TOKENS["context_image_token"], 0))
    if problems := token_problems(tokenizer, config.text_config.vocab_size):
        raise NotConvertible(source, problems)
    found, rows = _compared(source, config, authors=True)
    video = video_token(tokenizer, config.text_config.vocab_size)
    if video is None:
        raise NotConvertible(source, ["no token can stand for a video: <video> has no room"])
    outgoing = [one for row in rows for one in _parts(row, found[row.authors])]
    with new_directory(request.target) as folder:
        write_weights(folder, outgoing, request.shard_bytes)
        config.save_pretrained(folder)
        notes = write_own(source, folder, tokenizer, config, video, tiles(chat))
    return Report(OWN, len(found), len(outgoing), notes)


def _to_authors(request: Request) -> Report:
    source = request.source
    check_directory(source, processor=True)
    config: Any = load_hf(source, empty=True).config
    processor = load_processor(source)
    problems = own_problems(config) + processor_problems(processor, config)
    if problems := problems + code_problems(request.code):
        raise NotConvertible(source, problems)
    found, rows = _compared(source, config, authors=False)
    if mixed := [
        f"{', '.join(row.own)}: not of one precision"
        for row in rows
        if len({found[name].dtype for name in row.own}) > 1
    ]:
        raise NotConvertible(source, mixed)
    image = processor.image_processor
    chat = chat_config(config, (image.min_patches, image.max_patches))
    outgoing = [_joined(row, [found[name] for name in row.own]) for row in rows]
    with new_directory(request.target) as folder:
        write_weights(folder, outgoing, request.shard_bytes)
        (folder / "config.json").write_text(json.dumps(chat, indent=2) + "\n")
        notes = write_authors(source, folder, processor, request.code)
    return Report(AUTHORS, len(found), len(outgoing), notes)


def _compared(
    source: Path, config: Any, *, authors: bool
) -> tuple[dict[str, TensorEntry], list[Row]]:
    """The source's tensors by their names in its format, and all tensors of a model by config.

    Raises NotConvertible where they are not the same.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    tied = config.tie_word_embeddings
    found: dict[str, TensorEntry] = {}
    problems = []
    for name, entry in tensors(source).items():
        known = name if authors else file_name(name)
        if known in found:
            problems.append(f"{name}: is {found[known].name} under another name")
        found[known] = entry
    if not found:
        raise ModelError(f"{source}: has no weights (*.safetensors)")
    check_head(source, found, tied=tied)
    if tied:
        found.pop(HEAD, None)
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    rows = table(shapes, tied=tied)
    wanted: dict[str, Shape] = {}
    for row in rows:
        wanted |= {row.authors: row.whole} if authors else dict.fromkeys(row.own, row.shape)
    if problems := problems + tensor_problems(wanted, found):
        raise NotConvertible(source, problems)
    return found, rows


def _parts(row: Row, entry: TensorEntry) -> list[Outgoing]:
    """transformers' tensors of one of the authors'."""
    step = row.shape[0] if row.shape else 0
    return [
        Outgoing(name, entry.size // len(row.own), functools.partial(read_tensor, entry, rows))
        for i, name in enumerate(row.own)
        for rows in [slice(i * step, (i + 1) * step) if len(row.own) > 1 else None]
    ]


def _joined(row: Row, parts: list[TensorEntry]) -> Outgoing:
    """One of the authors' tensors."""

    def tensor() -> Tensor:
        found = [read_tensor(part) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    return Outgoing(row.authors, sum(part.size for part in parts), tensor)
