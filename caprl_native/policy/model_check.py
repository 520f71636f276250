"""What can be known of a model directory from a look at its files, before anything heavy loads."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caprl_native.files import PULL_IT, is_lfs_pointer
from caprl_native.messages import cut

# What holds a tokenizer's vocabulary, in one form or another.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# Where a chat template may stand; only the first two serve a tokenizer without a processor.
_TOKENIZER_TEMPLATES = ("chat_template.jinja", "additional_chat_templates/default.jinja")
_PROCESSOR_TEMPLATES = ("chat_template.json", "processor_config.json")


class ModelError(ValueError):
    """A model directory cannot be used; the message names the file and what is wrong with it."""


@contextmanager
def loading(path: str | Path, what: str) -> Iterator[None]:
    """Raises ModelError for what transformers raises (it may be anything) where files are missing
    or damaged."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())
        raise ModelError(
            f"{path}: transformers cannot load its {what} ({type(error).__name__}: "
            f"{cut(told, 200)}): take these files whole from where the model comes from"
        ) from error


def _named(file: Path) -> str:
    return f"{file.parent}: {file.name}"


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a safetensors file, as the file's header describes it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # in the format's words: "BF16", "F32", ...

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        bits = re.search(r"\d+", self.dtype)
        return self.elements * (int(bits[0]) // 8 if bits else 1)

    @property
    def sides(self) -> str:
        """The shape as a message shows it."""
        return sides(self.shape)


def sides(shape: tuple[int, ...]) -> str:
    """A shape as a message shows it."""
    return " x ".join(map(str, shape)) or "a number"


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError where it is not there or holds no object."""
    try:
        if is_lfs_pointer(file):
            raise ModelError(f"{_named(file)}: {PULL_IT}")
        value = json.loads(file.read_text(encoding="utf-8"))
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{_named(file)}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{_named(file)}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{_named(file)}: expected a JSON object, found a {type(value).__name__}")
    return value


def read_config(path: str | Path) -> dict[str, Any]:
    """The `config.json` of a model directory. Raises ModelError."""
    file = Path(path) / "config.json"
    if not os.path.isfile(file):
        raise ModelError(f"{path}: not a Hugging Face model directory (it has no config.json)")
    return read_json(file)


def has_linear_layers(path: str | Path) -> bool:
    """Whether some layers of the language model carry a state in place of attention."""
    config = read_config(path)
    return "linear_num_key_heads" in (config.get("text_config") or config)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a directory's weights, those that its index names."""
    index = folder / "model.safetensors.index.json"
    if not os.path.isfile(index):
        return sorted(folder.glob("*.safetensors"))
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
        raise ModelError(f"{_named(index)}: expected weight_map, a file's name for each tensor")
    files = [folder / name for name in sorted(set(where.values()))]
    if missing := [f.name for f in files if not f.is_file()]:
        raise ModelError(f"{_named(index)}: names {missing[0]}, which is not there")
    return files


def tensors(folder: Path) -> dict[str, TensorEntry]:
    """What the headers of a directory's weights say, by name; empty where there are none.

    Raises ModelError for a file that is damaged, cut short, or a pointer of Git LFS.
    """
    found: dict[str, TensorEntry] = {}
    for file in weight_files(folder):
        found |= _header(file)
    return found


def _header(file: Path) -> dict[str, TensorEntry]:
    from safetensors import SafetensorError, safe_open

    try:
        if is_lfs_pointer(file):
            raise ModelError(f"{_named(file)}: {PULL_IT}")
        with safe_open(file, "np") as opened:  # which imports no torch
            names = opened.keys()
            parts = [(name, opened.get_slice(name)) for name in names]
            return {n: TensorEntry(file, n, tuple(p.get_shape()), p.get_dtype()) for n, p in parts}
    except SafetensorError as error:
        raise ModelError(f"{_named(file)}: {_damage(file, str(error))}") from error
    except OSError as error:
        raise ModelError(f"{_named(file)}: cannot be read: {error.strerror or error}") from error


def _damage(file: Path, reason: str) -> str:
    """What is wrong with a safetensors file that cannot be opened for this reason.

    It is 8 bytes of length, then a JSON header, then the tensors' bytes.
    """
    if "invalid header length" in reason:
        return "is cut short, or no safetensors file"
    if "file not fully covered" in reason:  # the header was found to be a sound one
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((t["data_offsets"][1] for t in header.values()), default=0)
        if end > size:
            return f"is cut short, {size:,} of {end:,} bytes; download it again"
    return "is no safetensors file, or a damaged one"


def check_directory(path: str | Path, *, chat: bool = True, processor: bool = False) -> None:
    """Raises ModelError unless config, weights and (with `chat`) the tokenizer and its chat
    template look usable.

    `processor`: images are prepared, too, and the template may be the processor's.
    """
    folder = Path(path)
    config = read_config(folder)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{_named(folder / 'config.json')}: model_type is missing")
    for file in itertools.chain(folder.glob("*.bin"), folder.glob("tokenizer*")):
        if file.is_file() and is_lfs_pointer(file):
            raise ModelError(f"{_named(file)}: {PULL_IT}")
    found = tensors(folder)
    if not found and not list(folder.glob("*.bin")):
        raise ModelError(f"{folder}: has no weights (*.safetensors)")
    tied = _ties(config)
    if tied or config.get("tie_word_embeddings") is False:
        check_head(folder, found, tied=tied)
    if chat and not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError(  # transformers makes an empty one of its own
            f"{folder}: has no tokenizer ({', '.join(_TOKENIZERS)}); take it from where the model "
            "comes from"
        )
    if chat and not has_chat_template(folder, processor=processor):
        raise ModelError(
            f"{folder}: has no chat template; add the chat_template.jinja that the model was "
            "trained with (base models have none: take the instruct or chat version)"
        )


def has_chat_template(folder: Path, *, processor: bool) -> bool:
    """Whether there is one where the tokenizer (or the processor) looks for it."""
    if any((folder / name).is_file() for name in _TOKENIZER_TEMPLATES):
        return True
    files = ["tokenizer_config.json", *(_PROCESSOR_TEMPLATES if processor else ())]
    return any(
        bool(read_json(folder / name).get("chat_template"))
        for name in files
        if (folder / name).is_file()
    )


def _ties(config: dict[str, Any]) -> bool:
    text = config.get("text_config")
    return bool(
        config.get(
            "tie_word_embeddings", isinstance(text, dict) and text.get("tie_word_embeddings")
        )
    )


def check_head(folder: Path, found: Mapping[str, TensorEntry], *, tied: bool) -> None:
    """Raises ModelError unless the weights have a head of their own or, `tied`, no other than the
    embedding."""
    if tied:
        _check_tied(folder, found)
    else:
        _check_untied(folder, found)


def _check_tied(folder: Path, found: Mapping[str, TensorEntry]) -> None:
    """A file may hold the output matrix beside the embedding it is tied to, if they are the same.

    Where they differ the engine, transformers and this trainer would each take another one.
    """
    from safetensors import safe_open

    heads = [n for n in found if n == "lm_head.weight" or n.endswith(".lm_head.weight")]
    embeds = [n for n in found if n.endswith("embed_tokens.weight")]
    if len(heads) != 1 or len(embeds) != 1:
        return
    head, embed = found[heads[0]], found[embeds[0]]
    same = head.shape == embed.shape
    if same:
        with safe_open(head.file, "pt") as one, safe_open(embed.file, "pt") as other:
            left, right = one.get_slice(head.name), other.get_slice(embed.name)
            rows = head.shape[0]
            same = all(left[i : i + 4096].equal(right[i : i + 4096]) for i in range(0, rows, 4096))
    if not same:
        raise ModelError(
            f"{_named(folder / 'config.json')}: tie_word_embeddings is true, but "
            f"{head.file.name} holds another {heads[0]} than {embeds[0]}; set it to false, or "
            "remove that tensor"
        )


def _check_untied(folder: Path, found: Mapping[str, TensorEntry]) -> None:
    """A model that shares no matrix needs one for its output; loaders would fill in noise."""
    embeds = [n for n in found if n.endswith("embed_tokens.weight")]
    if embeds and not any("lm_head" in n or n.startswith("output") for n in found):
        raise ModelError(
            f"{_named(folder / 'config.json')}: tie_word_embeddings is false, but "
            f"{found[embeds[0]].file.name} holds no lm_head.weight; the weights were not written "
            "whole, or it should be true"
        )


def check_reference(policy: str | Path, reference: str | Path) -> None:
    """Raises ModelError unless a reference policy can score what the policy was prompted with."""
    ours, theirs = read_config(policy), read_config(reference)
    for name in ("model_type", "image_token_id", "video_token_id", "vision_start_token_id"):
        _require_same(reference, name, ours.get(name), theirs.get(name))
    for table, names in _SHARED.items():
        mine, other = (c.get(table) or c for c in (ours, theirs))
        for name in names:
            _require_same(reference, f"{table}.{name}", mine.get(name), other.get(name))
    vocabularies = [_vocabulary(Path(path)) for path in (policy, reference)]
    if None not in vocabularies:
        _require_same(reference, "the tokenizer", *vocabularies)


_SHARED = {
    "text_config": ("vocab_size",),
    "vision_config": ("patch_size", "spatial_merge_size", "temporal_patch_size"),
}


def _require_same(reference: str | Path, name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        shown = "" if isinstance(ours, dict | list) else f": {theirs!r:.60}, not {ours!r:.60}"
        raise ModelError(
            f"{reference}: is not of the policy's kind, {name} differs{shown}; "
            "the KL term compares the probabilities of the same tokens"
        )


def _vocabulary(folder: Path) -> dict[str, int] | list[Any] | None:
    """Tokens and their ids, those added included; None where the tokenizer is of another form."""
    if not (folder / "tokenizer.json").is_file():
        return None
    described = read_json(folder / "tokenizer.json")
    model = described.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        return vocab if isinstance(vocab, list) else None
    added = described.get("added_tokens") or []
    return vocab | {t["content"]: t["id"] for t in added if isinstance(t, dict) and "id" in t}
