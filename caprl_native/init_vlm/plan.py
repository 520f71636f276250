"""Where each tensor of the result comes from, and whether the parts fit one another at all.

The result has the vision model's names and config. Nothing is loaded: headers and configs decide.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caprl_native.policy.families import FAMILIES, Family, family_of
from caprl_native.policy.model_check import ModelError, TensorEntry, loading, tensors

HEAD = "lm_head.weight"
# Of both language models' configs.
_SETTINGS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "vocab_size",
    "attention_bias",
)
_ROPE = ("rope_theta", "rope_type")
_MAY_LACK = ("attention_bias",)  # where every model of a kind has the same


class PartsDiffer(ModelError):
    """The parts do not make one model; `problems` are all that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the parts do not make one model:\n" + "\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Filled:
    """A tensor of the result: its name, its part, its shape, and the file's tensor that fills it;
    `source` None: it is made anew."""

    name: str
    part: str
    shape: tuple[int, ...]
    source: TensorEntry | None


@dataclass(frozen=True)
class Plan:
    """All tensors of the result, each once, in the order in which they are written."""

    family: Family
    tensors: list[Filled]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many tensors and numbers each part has."""
        found: dict[str, dict[str, int]] = {}
        for filled in self.tensors:
            count = found.setdefault(filled.part, {"tensors": 0, "parameters": 0})
            count["tensors"] += 1
            size = 1
            for side in filled.shape:
                size *= side
            count["parameters"] += size
        return found


def plan(vision: Path, language: Path, *, keep_projector: bool) -> Plan:
    """What the result is made of.

    Raises:
        ModelError: a directory cannot be read, or is of a family that has no table of names.
        PartsDiffer: with all that does not fit.
    """
    family = family_of(vision)
    if not (family.sees_media and family.text_names):
        known = ", ".join(name for name in FAMILIES if FAMILIES[name].value.text_names)
        raise ModelError(
            f"{vision}: a {family.model_type} is not put together from parts here, but {known}"
        )
    theirs, ours = tensors(language), tensors(vision)
    for folder, found in ((vision, ours), (language, theirs)):
        if not found:
            raise ModelError(f"{folder}: has no weights (*.safetensors)")
    problems, tied = _settings_differ(vision, language)
    if tied:
        ours = {name: entry for name, entry in ours.items() if name != HEAD}
        theirs = {name: entry for name, entry in theirs.items() if name != HEAD}
    filled: list[Filled] = []
    for name, entry in ours.items():
        one = _filled(family, name, entry, theirs, keep_projector)
        if isinstance(one, str):
            problems.append(one)
        else:
            filled.append(one)
    problems += _unused_or_twice(filled, theirs)
    if problems:
        raise PartsDiffer(problems)
    return Plan(family, filled)


def _filled(
    family: Family,
    name: str,
    entry: TensorEntry,
    theirs: dict[str, TensorEntry],
    keep_projector: bool,
) -> Filled | str:
    """What fills a tensor of the vision model's; or what is wrong."""
    try:
        part = family.part_of(name)
    except ValueError:
        return f"{name}: belongs to no part of a {family.model_type}"
    if part != "language":
        kept = part == "vision" or keep_projector
        return Filled(name, part, entry.shape, entry if kept else None)
    own = text_name(family, name)
    other = theirs.get(own)
    if other is None:
        return f"{name}: the language model has no {own}"
    if other.shape != entry.shape:
        return f"{name}: {entry.sides} in the vision model, {other.sides} in the language model"
    return Filled(name, part, entry.shape, other)


def text_name(family: Family, name: str) -> str:
    """What the language model alone calls a tensor of the language part."""
    prefix = max((p for p in family.text_names if name.startswith(p)), key=len, default=None)
    return name if prefix is None else family.text_names[prefix] + name[len(prefix) :]


def _unused_or_twice(filled: list[Filled], theirs: dict[str, TensorEntry]) -> list[str]:
    used = Counter(f.source.name for f in filled if f.part == "language" and f.source)
    unused = [f"{name}: of the language model, has no place" for name in theirs if not used[name]]
    twice = [f"{name}: would fill {n} tensors" for name, n in used.items() if n > 1]
    return unused + twice


def _settings_differ(vision: Path, language: Path) -> tuple[list[str], bool]:
    """The settings that decide what the same weights compute and differ; whether the result's head
    is its embedding."""
    from transformers import AutoConfig

    with loading(vision, "config.json"):
        config = AutoConfig.from_pretrained(vision)
    with loading(language, "config.json"):
        other = AutoConfig.from_pretrained(language)
    ours, theirs = config.get_text_config(), other.get_text_config()
    pairs = {name: (_setting(ours, name), _setting(theirs, name)) for name in _SETTINGS}
    pairs |= {name: (_rope(ours, name), _rope(theirs, name)) for name in _ROPE}
    pairs["layer_types"] = (_layers(ours), _layers(theirs))
    tied = (_tied(config), _tied(other))
    pairs["tie_word_embeddings"] = tied
    problems = [
        f"{name}: {a} in the vision model's config, {b} in the language model's"
        for name, (a, b) in pairs.items()
        if a != b and not (name in _MAY_LACK and None in (a, b))
    ]
    return problems, tied[0]


def _setting(config: Any, name: str) -> Any:
    value = getattr(config, name, None)
    if name == "head_dim" and value is None:
        return config.hidden_size // config.num_attention_heads
    return value


def _rope(config: Any, name: str) -> Any:
    found = getattr(config, "rope_parameters", None) or {}
    if name == "rope_type":  # of text alone, mRoPE is the ordinary one
        kind = found.get("rope_type", "default")
        return "default" if kind == "mrope" else kind
    return found.get(name)


def _layers(config: Any) -> str:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return ", ".join(sorted(kinds))


def _tied(config: Any) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))
