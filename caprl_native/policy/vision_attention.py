"""Attention of a vision tower on CUDA: one kernel for all images and frames of a micro-batch.

Patches attend to those of their own segment (an image, a frame, a window) alone. transformers cuts
queries, keys and values into segments and calls attention for each: three waits for the GPU and
hundreds of small kernels in every block. `varlen_attn` takes the segments' bounds as a tensor.

Registered with transformers under the name `NAME`. No GPU has run it yet: tests put a reference in
the kernel's place.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from caprl_native.policy.model_check import ModelError

# By the word "flash" transformers knows that bounds are taken; their largest gap is then read once
# in a forward pass, not in each block.
NAME = "flash_segments"


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Outputs `[1, N, H, D]` for queries, keys and values `[1, H, N, D]` of N patches, bfloat16.

    `cu_seq_lens_q`: int32, where segments begin, and N; `max_length_q`: patches of the longest.

    Raises:
        ModelError: the model asks for another attention.
    """
    if dropout or abs(scaling * query.shape[-1] ** 0.5 - 1) > 1e-6:
        raise ModelError("the vision tower's attention has a dropout or a scale of its own")
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    longest = int(max_length_q)
    out = varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, longest, longest)
    assert isinstance(out, Tensor)
    return out[None], None


AttentionInterface.register(NAME, segment_attention)
