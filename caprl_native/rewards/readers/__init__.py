"""Who answers questions on captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caprl_native.config.models import ReaderConfig
    from caprl_native.rewards.readers.base import Reader


def build_reader(config: ReaderConfig, tensor_parallel: int = 1) -> Reader:
    """The reader that the config asks for."""
    if config.endpoint:
        from caprl_native.rewards.readers.endpoint import EndpointReader

        return EndpointReader(config)
    from caprl_native.rewards.readers.engine import EngineReader

    return EngineReader(config, tensor_parallel)
