"""Any causal language model that transformers knows: no media, positions with one axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from caprl_native.policy.families.base import Family, MediaFeatures, Prompt
from caprl_native.policy.model_check import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

# What some models do to the logits behind the LM head, by their configs' names, and the value that
# does nothing. Log-probs are computed from hidden states and the head's weight alone.
_ON_LOGITS = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}


@dataclass(frozen=True)
class Text(Family):
    """Every parameter is the language model's."""

    parts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"language": ("",)})
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def check(self, hf: Any, path: str | Path) -> None:
        if problem := language_problem(hf):
            raise ModelError(f"{path}: {self.model_type} cannot be trained here: {problem}")

    def positions(self, config: Any, prompt: Prompt) -> Tensor:
        import torch

        return torch.arange(len(prompt))[None]

    def language_layers(self, hf: Any) -> nn.ModuleList:
        from torch import nn

        count = hf.config.get_text_config().num_hidden_layers
        lists = (m for m in hf.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
        return next(lists)

    def language(
        self,
        hf: Any,
        embeds: Tensor,
        prefixes: Any,
        positions: Tensor,
        media_mask: Tensor,
        features: MediaFeatures | None,
    ) -> Tensor:
        out = hf.base_model(
            inputs_embeds=embeds, position_ids=positions[0], prefixes=prefixes, use_cache=False
        )
        return out.last_hidden_state


def language_problem(hf: Any) -> str:
    """What of this model would be computed wrongly without a word; empty if nothing would."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    config = hf.config.get_text_config()
    if not hf._supports_attention_backend:
        return "transformers does not let its attention be replaced"
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return f"not all of its layers attend to all tokens ({sorted(set(config.layer_types))})"
    for name, harmless in _ON_LOGITS.items():
        if (value := getattr(config, name, None)) not in (None, harmless):
            return f"{name} = {value} changes its logits"
    if getattr(hf.get_output_embeddings(), "bias", None) is not None:
        return "its LM head has a bias"
    if not any(isinstance(m, GradientCheckpointingLayer) for m in hf.modules()):
        return "its layers cannot be recomputed in the backward pass"
    return ""
