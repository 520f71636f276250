"""Where the optimizer keeps its state, and in which precision."""

from __future__ import annotations

from pydantic import Field

from caprl_native.config.fields import Table
from caprl_native.config.models import Dtype


class OptimizerStateConfig(Table):
    optimizer_dtype: Dtype = Field(
        "float32",
        description="Precision in which AdamW's two moments are kept; computed with in float32.",
    )
    optimizer_offload: bool = Field(
        False,
        description="On CUDA: the moments stay in the host's memory, and pass through the GPU in "
        "each optimizer step.",
    )
