"""What a model's replies depend on, beside the request; and what they are about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import VisionModelConfig
from caprl_native.inference.identity import media_identity, media_settings, model_identity
from caprl_native.inference.store import key_of
from caprl_native.types import MediaRef


def seeing_identity(model: VisionModelConfig, media: MediaConfig) -> list[Any]:
    """Of a model that is shown media."""
    shown = sorted(media_settings(media).items())
    return [*model_identity(model, servers=False), model.repetition_penalty, model.video_as, shown]


def media_key(media: Iterable[MediaRef]) -> str:
    """What the media are, wherever they lie; of equal files equal."""
    return key_of(*map(media_identity, media))


def model_name(model: VisionModelConfig) -> str:
    """The model as the output names it."""
    return model.model if model.endpoint else model.path.rstrip("/").rpartition("/")[2]
