"""Qwen3.5, dense: Qwen3-VL's tower and positions; three of four language layers are linear.

A linear layer is a gated delta net. Of each token it makes q, k and v by a projection and a causal
convolution of width w, a decay a and a rate b, and over the tokens it carries a state S:

    S = a S + b k (v - a k S)        o = q S

So a response's tokens need the prompt's tokens only as far as the state and the last w - 1 inputs
of the convolution go. Both are computed once per prompt and handed to each of its responses, which
gives what separate sequences give. No mask could do that: a state that ran through one response
would reach the next.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caprl_native.policy.families.base import FAMILIES
from caprl_native.policy.families.qwen import Qwen, qwen_parts

if TYPE_CHECKING:
    from torch import Tensor

    from caprl_native.policy.attention_cpu import Parts


@dataclass(frozen=True)
class Qwen35(Qwen):
    """Qwen3-VL without deepstack, and linear layers."""

    def adapt(self, hf: Any) -> None:
        layers: Any = self.language_layers(hf)
        for layer in layers:
            if hasattr(layer, "linear_attn"):
                layer.linear_attn.forward = functools.partial(scan, layer.linear_attn)


def scan(net: Any, hidden_states: Tensor, *, prefixes: Any, **others: object) -> Tensor:
    """Outputs `[B, L, H]` of a gated delta net for the rows of a micro-batch.

    `prefixes`: as attention gets it; its `parts` say where prompts and responses stand.
    """
    import torch

    rows, length, _ = hidden_states.shape
    mixed = net.in_proj_qkv(hidden_states)
    rate = net.in_proj_b(hidden_states).sigmoid()
    step = net.in_proj_a(hidden_states).float() + net.dt_bias
    decay = -net.A_log.float().exp() * torch.nn.functional.softplus(step)
    out = _forked(net, (mixed, decay, rate), prefixes.parts)
    z = net.in_proj_z(hidden_states).reshape(-1, net.head_v_dim)
    gated = net.norm(out.reshape(-1, net.head_v_dim), z)
    projected: Tensor = net.out_proj(gated.reshape(rows, length, -1))
    return projected


def _forked(net: Any, inputs: tuple[Tensor, Tensor, Tensor], parts: Parts) -> Tensor:
    """Outputs `[B, L, heads, D]` of q, k and v, decays and rates, each `[B, L, ...]`."""
    import torch

    mixed, (rows, length) = inputs[0], inputs[0].shape[:2]
    ends = torch.tensor([prompt for prompt, _ in parts.spans], device=mixed.device)
    of_prompts, state = _over_prompts(net, inputs, ends, max(p for p, _ in parts.spans))

    index = parts.slots // parts.shape[1]
    row = torch.zeros(parts.shape[0], dtype=torch.long, device=mixed.device)
    row[index] = parts.places // length
    own, decay, rate = (parts.table(t) for t in inputs)
    before = net.conv_kernel_size - 1
    led = torch.cat([_tail(mixed, ends, before)[row], own], dim=1)
    begun = None if state is None else state[row]
    found, _ = _delta(net, _convolved(net, led)[:, before:], decay, rate, begun)
    out = found.new_zeros(rows, length, *found.shape[2:])
    if of_prompts is not None:
        out[:, : of_prompts.shape[1]] = of_prompts
    out = out.flatten(0, 1).index_put((parts.places,), found.flatten(0, 1)[parts.slots])
    return out.unflatten(0, (rows, length))


def _over_prompts(
    net: Any, inputs: tuple[Tensor, Tensor, Tensor], ends: Tensor, longest: int
) -> tuple[Tensor | None, Tensor | None]:
    """Outputs `[B, P, heads, D]` over the rows' prompts, and the state behind the end of each;
    neither where no row has one: whole sequences are responses without a prompt."""
    import torch

    if not longest:
        return None, None
    inside = (torch.arange(longest, device=ends.device) < ends[:, None])[..., None]
    mixed, decay, rate = (t[:, :longest] for t in inputs)
    # Past a prompt's end nothing decays and nothing is written: its state stays.
    return _delta(net, _convolved(net, mixed), decay * inside, rate * inside)


def _tail(mixed: Tensor, ends: Tensor, count: int) -> Tensor:
    """The last `count` inputs `[B, count, C]` of each row's prompt; zeros before its first."""
    import torch

    padded = torch.nn.functional.pad(mixed, (0, 0, count, 0))
    at = ends[:, None] + torch.arange(count, device=ends.device)
    return padded[torch.arange(len(ends), device=ends.device)[:, None], at]


def _convolved(net: Any, mixed: Tensor) -> Tensor:
    from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

    out: Tensor = qwen.causal_conv1d_fn(
        mixed.transpose(1, 2),
        net.conv1d.weight.squeeze(1),
        net.conv1d.bias,
        activation=net.activation,
    )
    return out.transpose(1, 2)


def _delta(
    net: Any, mixed: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs `[B, T, heads, D]`, and the state behind the last token."""
    from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

    query, key, value = mixed.split([net.key_dim, net.key_dim, net.value_dim], dim=-1)
    query, key = (t.unflatten(-1, (-1, net.head_k_dim)) for t in (query, key))
    shared = net.num_v_heads // net.num_k_heads
    query, key = (t.repeat_interleave(shared, dim=2) for t in (query, key))
    out: tuple[Tensor, Tensor] = qwen.torch_chunk_gated_delta_rule(
        query,
        key,
        value.unflatten(-1, (-1, net.head_v_dim)),
        g=decay,
        beta=beta,
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return out


FAMILIES.add("qwen3_5", Qwen35("qwen3_5", qwen_parts("merger")))
