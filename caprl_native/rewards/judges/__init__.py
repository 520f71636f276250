"""Who looks at media and captions and judges them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caprl_native.rewards.judges.base import Judge
    from caprl_native.rewards.judges.options import JudgeConfig


def build_judge(options: JudgeConfig, tensor_parallel: int = 1) -> Judge:
    """The judge that the options ask for."""
    if options.path:
        from caprl_native.rewards.judges.engine import EngineJudge

        return EngineJudge(options, tensor_parallel)
    from caprl_native.rewards.judges.endpoint import EndpointJudge

    return EndpointJudge(options)
