"""What each tensor is called in the two formats, and whether a directory has all of them.

The authors' names are those that vLLM's `InternVLChatModel` reads. Their tower has queries, keys
and values in one matrix, one above the other; all else is the same numbers under another name.
transformers' names are those of its files, which are not those of its modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from caprl_native.policy.model_check import ModelError, TensorEntry, sides

Shape = tuple[int, ...]

# transformers' modules, and its files.
_FILES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
# transformers' files, and the authors'.
_AUTHORS = {
    "language_model.": "language_model.",
    "vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "vision_tower.embeddings.position_embeddings": "vision_model.embeddings.position_embedding",
    "vision_tower.embeddings.patch_embeddings.projection.": (
        "vision_model.embeddings.patch_embedding."
    ),
    "multi_modal_projector.layer_norm.": "mlp1.0.",
    "multi_modal_projector.linear_1.": "mlp1.1.",
    "multi_modal_projector.linear_2.": "mlp1.3.",  # mlp1.2 is the activation
}
_BLOCK = re.compile(r"vision_tower\.encoder\.layer\.(\d+)\.(.+)")
_IN_BLOCK = {
    "attention.q_proj.": "attn.qkv.",
    "attention.k_proj.": "attn.qkv.",
    "attention.v_proj.": "attn.qkv.",
    "attention.q_norm.": "attn.q_norm.",
    "attention.k_norm.": "attn.k_norm.",
    "attention.projection_layer.": "attn.proj.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
    "mlp.": "mlp.",
}
HEAD = "language_model.lm_head.weight"


class NotConvertible(ModelError):
    """A directory cannot be converted; `problems` are all that is in the way."""

    def __init__(self, folder: object, problems: list[str]) -> None:
        super().__init__(f"{folder} cannot be converted:\n" + "\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Row:
    """A tensor of the authors', and those of transformers' that it is made of, from its first rows
    to its last; `shape`: of each of the latter."""

    authors: str
    own: tuple[str, ...]
    shape: Shape

    @property
    def whole(self) -> Shape:
        """The shape of the authors' tensor."""
        return (self.shape[0] * len(self.own), *self.shape[1:]) if self.shape else ()


def file_name(module_name: str) -> str:
    """What transformers' files call a tensor of its modules; a name of its files stays."""
    return _changed(module_name, _FILES) or module_name


def authors_name(name: str) -> str:
    """What the authors call the tensor that holds one of transformers' files.

    Raises ValueError where they have none.
    """
    block = _BLOCK.fullmatch(name)
    inside = _changed(block[2], _IN_BLOCK) if block else None
    found = f"vision_model.encoder.layers.{block[1]}.{inside}" if block and inside else None
    if found := found or _changed(name, _AUTHORS):
        return found
    raise ValueError(f"{name}: the authors' model has no such tensor")


def _changed(name: str, prefixes: Mapping[str, str]) -> str | None:
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name[len(prefix) :]
    return None


def table(shapes: Mapping[str, Shape], *, tied: bool) -> list[Row]:
    """All tensors of a model, from the shapes of transformers' modules, in their order; a head
    that is tied to the embedding is none."""
    found: dict[str, Row] = {}
    for module_name, shape in shapes.items():
        name = file_name(module_name)
        if tied and name == HEAD:
            continue
        authors = authors_name(name)
        before = found[authors].own if authors in found else ()
        found[authors] = Row(authors, tuple(sorted((*before, name), key=_place)), shape)
    return list(found.values())


def _place(name: str) -> int:
    """Queries, keys, values."""
    return next((i for i, part in enumerate("qkv") if f".{part}_proj." in name), 0)


def tensor_problems(wanted: Mapping[str, Shape], found: Mapping[str, TensorEntry]) -> list[str]:
    """What is missing, of another shape, or has no place."""
    missing = [f"{name}: is not in the weights" for name in wanted if name not in found]
    other = [
        f"{name}: {found[name].sides} in the weights, {sides(shape)} by config.json"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    return missing + other + [f"{n}: has no place" for n in found if n not in wanted]
