"""The model that a config asks for: in this process, or behind an endpoint."""

from __future__ import annotations

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import CaptionerConfig, ModelConfig, VisionModelConfig
from caprl_native.inference.models import Model


def build_model(config: ModelConfig, media: MediaConfig, seed: int) -> Model:
    """The model that the config asks for."""
    if config.endpoint:
        from caprl_native.inference.endpoint_model import EndpointModel

        return EndpointModel(config, media)
    from caprl_native.inference.engine_model import EngineModel  # here: it takes seconds to import

    return EngineModel(config, media, seed)


def replies_at_once(config: ModelConfig) -> int:
    """Replies that a model in process works on, with those whose media it decodes meanwhile."""
    each = config.n if isinstance(config, CaptionerConfig) else 1
    ahead = 4 * config.workers * each if isinstance(config, VisionModelConfig) else 4
    return config.max_num_seqs + ahead
