"""What replies depend on: models and media, wherever they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import ModelConfig, VisionModelConfig
from caprl_native.inference.endpoint import urls
from caprl_native.inference.store import fingerprint
from caprl_native.redact import without_userinfo
from caprl_native.types import MediaRef

# Settings of media that say whether a file or a prompt is taken, not what is made of it.
_NOT_SHOWN = {"max_per_prompt", "decode_seconds", "decode_gib"}
_EDGE = 1 << 14  # bytes from each end of a video file


def media_settings(config: MediaConfig) -> dict[str, Any]:
    """The settings that decide what a model is shown of media."""
    shown = config.model_dump(exclude=_NOT_SHOWN)
    if config.video_frames == "fps":  # as in keys from before there was a choice
        del shown["video_frames"]
    return shown


def media_identity(medium: MediaRef) -> list[Any]:
    """What a medium is, wherever it lies: an image's bytes; a video's size and both ends, and clip.

    A file that cannot be read is its path; decoding says what is wrong with it.
    """
    part = [medium.kind, medium.start, medium.end, medium.fps]
    if medium.data is not None:
        return [*part, hashlib.blake2b(medium.data, digest_size=12).hexdigest()]
    path = Path(medium.path or "")
    try:
        if path.is_dir():
            return [*part, [[f.name, _digest(f, whole=True)] for f in sorted(path.iterdir())]]
        return [*part, path.stat().st_size, _digest(path, whole=medium.kind == "image")]
    except (OSError, ValueError):  # ValueError: a path that no file can have
        return [*part, str(path)]


def _digest(path: Path, whole: bool) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise OSError(f"{path} is no regular file")
    digest = hashlib.blake2b(digest_size=12)
    with path.open("rb") as file:
        digest.update(file.read() if whole else file.read(_EDGE))
        file.seek(max(0, path.stat().st_size - _EDGE))
        digest.update(file.read(_EDGE))
    return digest.hexdigest()


def model_identity(model: ModelConfig, *, servers: bool = True) -> list[Any]:
    """What a model's replies depend on, beside prompt and seed.

    `servers`: behind an endpoint, on its address, too; else the model's name there says which it is
    (with `revision`), and a job goes on with other servers.
    """
    sampling = [model.temperature, model.top_p, model.max_tokens]
    if model.endpoint:
        addresses = [without_userinfo(url) for url in urls(model.endpoint)] if servers else []
        address = addresses[0] if len(addresses) == 1 else sorted(addresses)
        server = [address, model.model, model.revision, model.prefill]
        return ["endpoint", *server, *sampling]
    if not model.path:
        return []
    engine = [fingerprint(model.path), model.dtype, model.top_k, model.max_model_len]
    return ["engine", *engine, *sampling]


def penalty_identity(model: VisionModelConfig) -> list[Any]:
    """What captions depend on beside `model_identity`; nothing, as in older keys, where it is 1."""
    penalty = model.repetition_penalty
    return [["repetition_penalty", penalty]] if penalty != 1 else []
