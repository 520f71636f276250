"""Bytes of activations in one forward and backward pass, from a model's config. No torch here.

With b bytes per number, T positions, a language layer of width H, feed-forward width F, and q and k
numbers in its queries and its keys, N patches, and vision blocks of width h and feed-forward width
f, what a block keeps for its backward pass is

    language layer   S = T (4 F b + H (8 + 4 b) + (q + k) (4 + 3 b) + 4 (2 heads + kv heads))
      with experts   S = T (4 c e b + H (12 + 3 b + 2 c b) + 4 E + 36 c
                            + (q + k) (4 + 3 b) + 4 (2 heads + kv heads))
    vision block     s = N (2 f b + 10 h b + 4 heads)
                     s = N (4 f b + h (8 + 10 b) + 4 heads)    with RMSNorm and a gate

(a gated feed-forward keeps gate, its activation, up and their product; RMSNorm a float32 copy and
what it scales; attention queries, keys, values, outputs and log-sum-exps). Checkpointed, it keeps
its input, and one block at a time is whole, with its gradients. The most is reached in the LM
head's backward pass, in a language layer's, or in a vision block's. Compiled blocks keep less.
Of E experts of width e a token goes through c: its state is there c times, and comes back c times,
weighted in float32.

tests/policy/test_activation_size.py compares with fake tensors at the published shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from caprl_native.config.schema import PolicyConfig
from caprl_native.policy.families.base import Family
from caprl_native.policy.model_size import Mixture, ModelSize

BYTES = {"bfloat16": 2, "float32": 4}
TILE = 8192  # entries of the vocabulary in one tile of the LM head, as in logprobs.py


@dataclass(frozen=True)
class Pass:
    """What goes through: positions, those whose tokens are scored, features of media."""

    positions: int
    scored: int
    features: int

    @classmethod
    def largest(cls, policy: PolicyConfig) -> Pass:
        """No micro-batch needs more than one of which every position is a feature, and scored."""
        tokens = policy.micro_batch_tokens
        return cls(tokens, tokens, tokens)


@dataclass(frozen=True)
class Activations:
    """Bytes by purpose. `held`: left by the forward pass; the others come and go behind it."""

    held: dict[str, float]
    head: dict[str, float]
    layer: dict[str, float]
    block: dict[str, float]

    @classmethod
    def of(cls, policy: PolicyConfig, model: ModelSize, family: Family, size: Pass) -> Activations:
        """Of a pass of this size through the model."""
        language, tower = _Language(model, policy, size), _Tower(model, policy, family, size)
        end = {"final norm and scored states": language.end}
        held = {
            "vision blocks": tower.kept,
            "projector": tower.projector,
            "language layers": language.kept,
        }
        of_tower = {name: held[name] for name in ("vision blocks", "projector")}
        return cls(
            held=held | end,
            head=held | end | {"LM head's tiles": language.tiles},
            layer=held | {"one language layer": language.working},
            block=of_tower | {"one vision block": tower.working},
        )

    @property
    def peak(self) -> dict[str, float]:
        """The moment at which there are most."""
        return max((self.head, self.layer, self.block), key=lambda parts: sum(parts.values()))


def activation_bytes(policy: PolicyConfig, model: ModelSize, family: Family) -> dict[str, float]:
    """The most of any micro-batch, by purpose."""
    return Activations.of(policy, model, family, Pass.largest(policy)).peak


class _Block(NamedTuple):
    """Bytes of a position in one layer: kept for its backward pass, and of that pass's own."""

    saved: int
    gradients: int


def _mixed(mixture: Mixture, width: int, numbers: int, b: int) -> _Block:
    """Of a layer with experts; `numbers`: its attention's."""
    chosen = mixture.chosen
    routing = 4 * width + 4 * mixture.experts + 36 * chosen  # float32; indices in int64
    through = chosen * b * (2 * width + 4 * mixture.width)
    # Of a token's states, each with its weight: gradients, and two products, in float32.
    return _Block(width * (8 + 3 * b) + numbers + routing + through, (12 * chosen + b) * width)


class _Language:
    """`kept` by all layers; `working`, what one has beside while it is recomputed and run backward;
    `end`, the final norm's and the head's inputs; `tiles` of the head."""

    def __init__(self, model: ModelSize, policy: PolicyConfig, size: Pass) -> None:
        text, b, tokens = model.text, BYTES[policy.dtype], size.positions
        width, inner = text["hidden_size"], text.get("intermediate_size", 4 * text["hidden_size"])
        heads, kv_heads = text["num_attention_heads"], model.kv_heads
        head_dim = text.get("head_dim") or width // heads
        numbers = (heads + kv_heads) * head_dim * (4 + 3 * b) + 4 * (2 * heads + kv_heads)
        dense = _Block(4 * inner * b + width * (8 + 4 * b) + numbers, (2 * inner + width) * b)
        layers = [dense] * text["num_hidden_layers"]
        if mixture := Mixture.of(text):
            mixed = _mixed(mixture, width, numbers, b)
            layers = [
                mixed if mixture.in_layer(text, i) else layer for i, layer in enumerate(layers)
            ]
        if policy.activation_checkpointing:
            self.kept = float(len(layers) * tokens * width * b)
            self.working = float(tokens * max(one.gradients + one.saved for one in layers))
        else:
            self.kept = float(tokens * sum(one.saved for one in layers))
            self.working = float(tokens * max(one.gradients for one in layers))
        self.end = float(tokens * width * (4 + b) + size.scored * width * b)
        chunk = min(policy.logprob_chunk, size.scored)
        self.tiles = float(4 * (size.scored * width + 3 * chunk * TILE + 2 * TILE * width))


class _Tower:
    """`kept` by all blocks and by what embeds the patches; `working`, as above; `projector`, kept
    behind the tower. Zeros where there is no tower, or nothing of it has a gradient."""

    def __init__(self, model: ModelSize, policy: PolicyConfig, family: Family, size: Pass) -> None:
        self.kept = self.working = self.projector = 0.0
        vision, b = model.vision, BYTES[policy.dtype]
        if not vision.get("hidden_size"):
            return
        fixed = policy.fixed_parts
        frozen = "vision" in fixed
        patches = math.ceil(size.features * family.patches_per_feature(model.config))
        width = vision["hidden_size"]
        inner = vision.get("intermediate_size", 4 * width)
        saved, gradients = patches * _block(vision, b), patches * (2 * inner + width) * b
        if _is_gated(model, family):
            saved += patches * (2 * inner * b + 8 * width)
        read = 1 + len(vision.get("deepstack_visual_indexes") or ())
        if not (frozen and "projector" in fixed):
            of_tower = read if frozen else 1  # its outputs, where no block keeps them as its input
            self.projector = float((3 * read + of_tower) * patches * width * b)
        if frozen:
            return
        checkpointed = policy.activation_checkpointing
        block = patches * width * b if checkpointed else saved
        blocks = vision.get("depth") or vision["num_hidden_layers"]
        self.kept = float(blocks * block + patches * _pixels(vision) * b)
        self.working = float(gradients + (saved if checkpointed else 0))


def _block(vision: dict[str, Any], b: int) -> int:
    """Bytes that a block keeps of one patch."""
    width, inner = vision["hidden_size"], vision.get("intermediate_size", 4 * vision["hidden_size"])
    return (2 * inner + 10 * width) * b + 4 * _heads(vision)


def _heads(vision: dict[str, Any]) -> int:
    return vision.get("num_heads") or vision.get("num_attention_heads", 0)


def _pixels(vision: dict[str, Any]) -> int:
    """Numbers in one patch."""
    channels = vision.get("in_channels") or vision.get("in_chans") or 3
    side = vision.get("patch_size", 0)
    patch = math.prod(side) if isinstance(side, list) else side**2
    return channels * vision.get("temporal_patch_size", 1) * patch


def _is_gated(model: ModelSize, family: Family) -> bool:
    """Whether the tower's feed-forwards have a gate, as those with RMSNorm do."""
    gates = [name for name in model.parameters if ".gate_proj." in name]

    def is_of_tower(name: str) -> bool:
        try:
            return family.part_of(name) == "vision"
        except ValueError:  # a name that the family does not know
            return False

    return any(map(is_of_tower, gates))
