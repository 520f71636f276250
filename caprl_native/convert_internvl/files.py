"""Tokenizer, processors and the other files that are no weights, in both formats."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caprl_native.convert_internvl.chat import adapted, turns
from caprl_native.convert_internvl.configs import CODE
from caprl_native.policy.families import family_of
from caprl_native.policy.fsdp import model_files
from caprl_native.policy.model_check import ModelError, read_json

# As the authors' program has them, whatever a directory's files say.
TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}
IMAGE, VIDEO = "<image>", "<video>"  # in the authors' prompts
_SPARE_VIDEO = "<|video_pad|>"  # of Qwen's vocabulary; vLLM has it for the authors' videos, too
_PIXELS: dict[str, Any] = {
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,  # bicubic
}
_REPLACED = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
    "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.json",
    "chat_template.jinja", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip
_TEMPLATES = ("chat_template.json", "chat_template.jinja")


def load_tokenizer(folder: Path) -> Any:
    """From its own files alone: beside the authors' config.json transformers would ask whether to
    run their code.

    Raises ModelError where it cannot be read.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as alone:
        for name in _REPLACED[1:]:
            if (folder / name).is_file():
                shutil.copy2(folder / name, alone)
        try:
            return AutoTokenizer.from_pretrained(alone, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: the tokenizer cannot be read: {error}") from error


def load_processor(folder: Path) -> Any:
    """Of a directory in transformers' format. Raises ModelError where it cannot be read."""
    try:
        return family_of(folder).load_processor(str(folder))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder}: the processor cannot be read: {error}") from error


def token_problems(tokenizer: Any, vocab_size: int) -> list[str]:
    """The authors' marks that are no tokens, or that the embedding has no row for."""
    ids = tokenizer.get_vocab()
    found = [f"{token}: is no token" for token in TOKENS.values() if token not in ids]
    beyond = [token for token in TOKENS.values() if ids.get(token, 0) >= vocab_size]
    return found + [f"{t}: has no row in an embedding of {vocab_size}" for t in beyond]


# --- to transformers' ---------------------------------------------------------------------------


def video_token(tokenizer: Any, vocab_size: int) -> str | None:
    """What stands for a video; `<video>` is added where there is room for it in the embedding."""
    if VIDEO not in tokenizer.get_vocab() and len(tokenizer) < vocab_size:
        tokenizer.add_tokens([VIDEO], special_tokens=True)
    ids = tokenizer.get_vocab()
    usable = (t for t in (VIDEO, _SPARE_VIDEO) if t in ids and ids[t] < vocab_size)
    return next(usable, None)


def write_own(
    source: Path, folder: Path, tokenizer: Any, config: Any, video: str, cut: tuple[int, int]
) -> list[str]:
    """All files but config.json and weights; returns what a user should know of them."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    _copy(source, folder, _REPLACED)
    marks = {IMAGE: TOKENS["context_image_token"], VIDEO: video}
    template, notes = _template(tokenizer, tokenizer.chat_template, marks)
    tokenizer.chat_template = template
    named = _named(tokenizer, folder, TOKENS | {"video_token": video})
    height, width = config.vision_config.image_size
    pixels: dict[str, Any] = _PIXELS | {"size": {"height": height, "width": width}}
    image = GotOcr2ImageProcessor(min_patches=cut[0], max_patches=cut[1], **pixels)
    processor = InternVLProcessor(
        image,
        named,
        InternVLVideoProcessor(**pixels),
        image_seq_length=config.image_seq_length,
        chat_template=template,
    )
    processor.save_pretrained(folder)
    _forget_place(folder)
    if not (folder / "generation_config.json").exists():
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        _write(folder / "generation_config.json", ends)
    return notes


def _named(tokenizer: Any, folder: Path, tokens: Mapping[str, str]) -> Any:
    """The tokenizer with these names for tokens, which only reading a directory gives it."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    _write(file, read_json(file) | dict(tokens))
    return load_tokenizer(folder)


def _forget_place(folder: Path) -> None:
    """transformers notes that a tokenizer came from a disk."""
    file = folder / "tokenizer_config.json"
    away = ("is_local", "local_files_only")
    _write(file, {name: value for name, value in read_json(file).items() if name not in away})


# --- to the authors' ----------------------------------------------------------------------------


def processor_problems(processor: Any, config: Any) -> list[str]:
    """What a directory's processor does that the authors' program does not."""
    tokenizer, image = processor.tokenizer, processor.image_processor
    found = token_problems(tokenizer, config.text_config.vocab_size)
    for name, token in TOKENS.items():
        if (own := getattr(tokenizer, name)) != token:
            found.append(f"{name} is {own}: the authors' program has {token}")
    context = tokenizer.convert_tokens_to_ids(TOKENS["context_image_token"])
    if config.image_token_id != context:
        found.append(f"image_token_id is {config.image_token_id}, the tokenizer's {context}")
    height, width = config.vision_config.image_size
    for name, wanted in {**_PIXELS, "size": {"height": height, "width": width}}.items():
        own = getattr(image, name)
        own = list(own) if isinstance(own, tuple) else own
        if dict(own) != wanted if name == "size" else own != wanted:
            found.append(f"image processor: {name} is {own}, the authors' program has {wanted}")
    return found


def write_authors(source: Path, folder: Path, processor: Any, code: Path | None) -> list[str]:
    """All files but config.json and weights; returns what a user should know of them.

    The tokenizer's files stay as they are.
    """
    _copy(source, folder, ("config.json", *_TEMPLATES))
    marks = {TOKENS["context_image_token"]: IMAGE, processor.video_token: VIDEO}
    template, notes = _template(processor.tokenizer, processor.chat_template, marks)
    (folder / "chat_template.jinja").write_text(template)
    for name in ("tokenizer_config.json", "processor_config.json"):  # where older ones have it
        file = folder / name
        if file.exists() and "chat_template" in (told := read_json(file)):
            del told["chat_template"]
            _write(file, told)
    if code is None:
        modules = ", ".join(sorted({f"{name.partition('.')[0]}.py" for name in CODE.values()}))
        notes.append(
            f"the authors' code is not in it: copy all *.py files of their repository ({modules} "
            "and what those import) into it, or give a folder that has them as --code"
        )
    else:
        for file in sorted(code.glob("*.py")):
            shutil.copy2(file, folder / file.name)
    return notes


def code_problems(code: Path | None) -> list[str]:
    """What config.json names and the folder of code lacks."""
    if code is None:
        return []
    names = sorted({f"{name.partition('.')[0]}.py" for name in CODE.values()})
    return [f"--code {code}: has no {name}" for name in names if not (code / name).is_file()]


# --- both ---------------------------------------------------------------------------------------


def _template(tokenizer: Any, template: Any, marks: Mapping[str, str]) -> tuple[str, list[str]]:
    """The template with new marks, or ChatML's; with a note of the latter."""
    if isinstance(template, str) and (found := adapted(tokenizer, template, marks)):
        return found, []
    image, video = marks.values()
    return turns(image, video), ["its chat template takes no media: plain ChatML turns replace it"]


def _copy(source: Path, folder: Path, but: tuple[str, ...]) -> None:
    for file in model_files(source):
        if file.name not in but and file.suffix != ".py":
            shutil.copy2(file, folder / file.name)


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
