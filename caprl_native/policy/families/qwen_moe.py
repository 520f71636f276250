"""Qwen3-VL-MoE: Qwen3-VL whose language layers have experts in place of a feed-forward.

With hidden states x `[T, H]`, a router r `[E, H]` and experts e of width I, each token goes through
the k experts K of its largest probabilities p = softmax(r x), weighted so that they add up to 1:

    y = sum over e in K of w(e) down(e) (silu(gate(e) x) * up(e) x),   w(e) = p(e) / sum over K of p

transformers holds `gate_up_proj` `[E, 2 I, H]` and `down_proj` `[E, H, I]`; in checkpoints, and in
what vLLM loads, the last two axes of both are swapped. transformers 5.19 reads either layout and
writes its own, which vLLM 0.32 cannot load. There is no auxiliary loss.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from caprl_native.policy.families.base import FAMILIES
from caprl_native.policy.families.qwen import QWEN3_VL_PARTS, Qwen
from caprl_native.policy.model_check import ModelError, tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

_STACKED = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")


@dataclass(frozen=True)
class QwenMoe(Qwen):
    """Qwen3-VL, and which of its modules are routers and experts."""

    stores_otherwise: ClassVar[bool] = True

    def check(self, hf: Any, path: str | Path) -> None:
        config = hf.config.get_text_config()
        file = Path(path) / "config.json"
        if not getattr(config, "norm_topk_prob", False):
            # transformers always makes a token's weights add up to 1, vLLM where this says so.
            raise ModelError(
                f"{file}: text_config.norm_topk_prob is not true, with which trainer and engine "
                "would compute two models; the published ones have true"
            )
        width, inner = config.hidden_size, config.moe_intermediate_size
        if width in (inner, 2 * inner):
            # transformers swaps a checkpoint's axes where their lengths differ from its model's.
            raise ModelError(
                f"{file}: text_config.moe_intermediate_size = {inner} is hidden_size ({width}) or "
                "half of it: whether a file's experts are transposed could not be told"
            )

        self._check_layout(Path(path), (2 * inner, width))

    def _check_layout(self, folder: Path, held: tuple[int, int]) -> None:
        """Raises ModelError where a file's experts are laid out as transformers holds them."""
        for name, entry in tensors(folder).items():
            if name.endswith(_STACKED[0]) and entry.shape[1:] == held:
                raise ModelError(
                    f"{entry.file}: {name} is {list(entry.shape)}, as transformers' "
                    "save_pretrained writes it; the engine reads experts as published, with the "
                    "last two axes swapped: swap them in all gate_up_proj and down_proj of "
                    "mlp.experts"
                )

    def routers(self, hf: Any) -> Sequence[nn.Module]:
        return [mlp.gate for mlp in self._mixtures(hf)]

    def experts(self, hf: Any) -> Sequence[nn.Module]:
        return [mlp.experts for mlp in self._mixtures(hf)]

    def _mixtures(self, hf: Any) -> list[Any]:
        mlps = [layer.mlp for layer in self.language_layers(hf)]
        return [mlp for mlp in mlps if hasattr(mlp, "experts")]  # others are dense, by the config

    def active_share(self, config: Any) -> float:
        text = config.get_text_config()
        return float(text.num_experts_per_tok / text.num_experts)

    def adapt(self, hf: Any) -> None:
        for router in self.routers(hf):
            router.forward = functools.partial(route, router)

    def as_stored(self, name: str, weight: Tensor) -> Tensor:
        return weight.transpose(1, 2) if name.endswith(_STACKED) else weight


def route(router: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits `[T, E]`, and each token's weights and experts `[T, k]`, of hidden states `[..., H]`.

    As transformers' router, but in float32 whatever the compute precision: of two experts that are
    nearly alike a rounded logit chooses another one.
    """
    import torch

    rows = hidden.reshape(-1, router.hidden_dim).float()
    logits = torch.nn.functional.linear(rows, router.weight.float())
    weights, chosen = logits.softmax(-1).topk(router.top_k, dim=-1)
    return logits, weights / weights.sum(-1, keepdim=True), chosen


FAMILIES.add("qwen3_vl_moe", QwenMoe("qwen3_vl_moe", QWEN3_VL_PARTS))
