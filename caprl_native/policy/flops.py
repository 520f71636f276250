"""Floating-point operations of an update, by the shapes of its groups.

A product of matrices `[a, b] x [b, c]` takes 2 a b c. Forward, for a group with P prompt tokens and
responses of R tokens each, in a language model with W weights in the linear layers of its L layers
(of experts, those that a token meets), attention of width A (heads x head size), a head of V x D,
and a tower whose blocks hold U weights and are h wide:

    2 W (P + sum R)                                 the layers
    4 L A (P (P + 1) / 2 + sum (R P + R (R + 1) / 2))    attention: pairs that the mask shows
    2 V D sum R                                     the LM head, at scored positions only
    2 E per patch                                   its embedding, of E weights
    2 U per patch + 4 h per pair of patches that see each other, in each block
    2 M per patch                                   the projector, M its weights per patch
    2 N per token or patch                          an adapter, of N numbers in A and B

The backward pass takes as much again for the gradients of inputs, where anything before trains, and
as much again for those of weights, where they train. Attention's takes twice its forward pass.
What is computed twice (checkpointed layers, the head's logits, a prompt whose responses are in
several micro-batches) counts once, as model FLOPs utilisation has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from caprl_native.policy.balance import GroupShape
from caprl_native.policy.lora import is_adapter
from caprl_native.policy.model import Policy
from caprl_native.policy.model_size import LINEAR_ATTENTION

LINEAR = (nn.Linear, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Flops:
    """Operations of a forward pass, each by what it is counted over; and which parts train."""

    token: float  # of the row, in the layers' weights
    pair: float  # of a query and a key that it sees
    answer: float  # a response token, in the LM head
    pixels: float  # of a patch, in its embedding: pixels need no gradient
    patch: float  # in the tower's blocks, and its attention in windows
    patch_pair: float  # of patches of one frame, in blocks that see all of it
    projected: float  # a patch, in the projector
    trained: frozenset[str]
    adapted: frozenset[str] = frozenset()  # parts with an adapter, which is trained there
    adapter_token: float = 0.0  # of the row, in the language model's adapter
    adapter_patch: float = 0.0

    @classmethod
    def of(cls, policy: Policy) -> Flops:
        hf, family, config = policy.hf, policy.family, policy.config
        text = config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        weights = _weights_by_part(policy)
        width, blocks, window, merged = family.vision_attention(config)
        adapters = _adapters_by_part(policy)
        windowed = len(family.vision_blocks(hf)) - blocks
        linear = (getattr(text, "layer_types", None) or []).count(LINEAR_ATTENTION)
        return cls(
            token=2.0 * (_weights(family.language_layers(hf).modules()) + _routed(policy)),
            # A linear layer's state is left out: it is little beside its weights.
            pair=4.0 * (text.num_hidden_layers - linear) * text.num_attention_heads * size,
            answer=2.0 * hf.get_output_embeddings().weight.numel(),
            pixels=2.0 * weights.get("pixels", 0),
            patch=2.0 * weights.get("vision", 0) + 4.0 * width * windowed * window,
            patch_pair=4.0 * width * blocks,
            projected=2.0 * weights.get("projector", 0) / merged,
            trained=frozenset(
                family.part_of(n)
                for n, p in hf.named_parameters()
                if p.requires_grad and not is_adapter(n)
            ),
            adapted=frozenset(adapters),
            adapter_token=2.0 * adapters.get("language", 0),
            adapter_patch=2.0 * adapters.get("vision", 0)
            + 2.0 * adapters.get("projector", 0) / merged,
        )

    def update(
        self,
        shape: GroupShape,
        *,
        scored: bool = False,
        reference: bool = False,
        shared: bool = False,
    ) -> float:
        """Of a group in an optimizer step, in a pass before it that only scores, and in one of the
        reference policy; `shared`: that is the policy with its adapter off."""
        pixels, eyes, projector, linear, attention = self.forward(shape)
        more = int(scored) + int(reference)
        vision, projected = "vision" in self.trained, "projector" in self.trained
        seeing, projecting = "vision" in self.adapted, "projector" in self.adapted
        # A frozen tower's outputs are kept for all passes of a step.
        seen = 1 + int(scored) if vision or seeing else 1
        seen += int(reference and (seeing or not shared))
        total = pixels * (seen + vision) + eyes * (seen + 2 * vision + seeing)
        # The projector's first norm trains with it, so it needs its inputs' gradients, too.
        behind = vision or projected or seeing or projecting
        total += projector * (1 + behind + projected + more)
        total += linear * (2 + ("language" in self.trained) + more)
        total += self.adapters(shape) * (3 + int(scored))
        return total + attention * (3 + more)

    def adapters(self, shape: GroupShape) -> float:
        """A forward pass through A and B; the reference policy has none."""
        tokens = shape.prompt + sum(shape.responses)
        return self.adapter_token * tokens + self.adapter_patch * shape.patches

    def forward(self, shape: GroupShape) -> tuple[float, float, float, float, float]:
        """The embedding of patches; the tower's blocks; the projector; the language model's linear
        layers; its attention."""
        prompt, answers = shape.prompt, sum(shape.responses)
        own = sum(n * (n + 1) / 2 for n in shape.responses)
        pairs = prompt * (prompt + 1) / 2 + answers * prompt + own
        return (
            self.pixels * shape.patches,
            self.patch * shape.patches + self.patch_pair * shape.patch_pairs,
            self.projected * shape.patches,
            self.token * (prompt + answers) + self.answer * answers,
            self.pair * pairs,
        )


@dataclass(frozen=True)
class Work:
    """What an update takes, over all ranks: operations, and tokens of the groups' rows."""

    flops: float = 0.0
    tokens: int = 0

    @classmethod
    def of(cls, shapes: Iterable[GroupShape], flops: Flops, **passes: bool) -> Work:
        """`passes`: as of `Flops.update`."""
        every = list(shapes)
        tokens = sum(shape.prompt + sum(shape.responses) for shape in every)
        done = (flops.update(shape, **passes) for shape in every)
        return cls(sum(done), tokens)


def _routed(policy: Policy) -> float:
    """Weights of routers, and of experts the share that a token meets."""
    family, hf = policy.family, policy.hf
    routers, experts = (
        sum(p.numel() for module in modules for p in module.parameters())
        for modules in (family.routers(hf), family.experts(hf))
    )
    return routers + experts * family.active_share(policy.config)


def _adapters_by_part(policy: Policy) -> Mapping[str, int]:
    """Numbers in A and B."""
    found: dict[str, int] = {}
    for name, parameter in policy.hf.named_parameters():
        if is_adapter(name):
            part = policy.family.part_of(name)
            found[part] = found.get(part, 0) + parameter.numel()
    return found


def _weights(modules: Iterable[nn.Module]) -> int:
    return sum(m.weight.numel() for m in modules if isinstance(m, LINEAR))


def _weights_by_part(policy: Policy) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for name, module in policy.hf.named_modules():
        if isinstance(module, LINEAR):
            part = policy.family.part_of(f"{name}.weight")
            part = "pixels" if part == "vision" and not isinstance(module, nn.Linear) else part
            found[part] = found.get(part, 0) + module.weight.numel()
    return found
