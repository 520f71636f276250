"""An adapter's products on a CPU, where there is one adapter for all.

vLLM 0.32's own for CPUs copy A and B for each token (`lora_a_weights[indices]`), and count the
rows of a vision tower's pass wrongly where a batch has images and videos: "einsum(): subscript b
has size 176 for operand 1 which does not broadcast with previously seen size 80".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def simplify(layers: Any) -> None:
    """Has an engine's adapter manager compute with its first adapter alone; on a CPU."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    for wrapper in layers.punica_wrapper_mapping.values():
        if type(wrapper) is PunicaWrapperCPU:
            wrapper.__class__ = _one_adapter()


@functools.cache
def _one_adapter() -> type:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    class OneAdapter(PunicaWrapperCPU):
        """y += B (A x), of fused layers part by part; A x is rounded to y's precision, as vLLM's
        kernels do."""

        def add_lora_linear(
            self,
            y: Tensor,
            x: Tensor,
            lora_a_stacked: Sequence[Tensor],
            lora_b_stacked: Sequence[Tensor],
            scale: float,
            output_slices: Sequence[int],
            **_: Any,
        ) -> None:
            y, start = y.view(-1, y.shape[-1]), 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                low = (x.to(a.dtype) @ a[0, 0].T) * scale
                y[:, start : start + width] += low.to(y.dtype) @ b[0, 0].to(y.dtype).T
                start += width

    return OneAdapter
