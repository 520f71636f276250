"""What a model's replies depend on, beside the request."""

from __future__ import annotations

from typing import Any

from caprl_native.config.models import VisionModelConfig
from caprl_native.config.schema import MediaConfig
from caprl_native.inference.store import fingerprint


def model_identity(model: VisionModelConfig, media: MediaConfig) -> list[Any]:
    """The weights (of an endpoint its model's name and `revision`), sampling, and what of the media
    it is shown."""
    who: list[Any] = ["endpoint", model.model, model.revision, model.prefill, model.video_as]
    if model.path:
        who = ["engine", fingerprint(model.path), model.dtype]
    sampling = [model.temperature, model.top_p, model.top_k, model.max_tokens]
    shown = {k: v for k, v in media.model_dump().items() if not k.startswith("decode_")}
    return [who, [*sampling, model.repetition_penalty], shown]


def model_name(model: VisionModelConfig) -> str:
    """The model as the output names it."""
    return model.model if model.endpoint else model.path.rstrip("/").rpartition("/")[2]
