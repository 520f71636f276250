"""The engine room: a config's model, as many copies of it as are asked for, wherever they run."""

from __future__ import annotations

from functools import partial

from caprl_native.config.media import MediaConfig
from caprl_native.config.models import ModelConfig
from caprl_native.inference.build import build_model, replies_at_once
from caprl_native.inference.models import Model


def open_model(
    config: ModelConfig, media: MediaConfig, seed: int, *, replicas: int = 1, cluster: str = ""
) -> Model:
    """The model that the config asks for: behind its endpoint, in this process, or as Ray actors.

    `replicas` and `cluster` (a Ray cluster's address; empty: this machine) are of models in
    process. On a GPU even one copy is an actor: when its process ends, its memory is free.

    Raises ConfigError where this machine has no room for so many.
    """
    build = partial(build_model, config, media, seed)
    if not config.path or not (replicas > 1 or cluster or _has_gpu()):
        return build()
    from caprl_native.inference.replicas import ReplicatedModel

    at_once = replies_at_once(config)
    return ReplicatedModel(build, at_once, replicas=replicas, cluster=cluster)


def _has_gpu() -> bool:
    import torch  # here: a command that asks no model need not wait for it

    return torch.cuda.is_available()
