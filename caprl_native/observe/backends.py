"""Where metrics go beside `metrics.jsonl`: torchtune's metric loggers, by the names in the config.

They are imported only where they are asked for, since that takes seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import tomli

from caprl_native.config.schema import LogConfig
from caprl_native.distributed.errors import writing
from caprl_native.files import atomic_write


class Backend(Protocol):
    """What torchtune's loggers have in common."""

    def log_dict(self, payload: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


def open_backends(config: LogConfig, name: str, folder: Path, resolved: str) -> list[Backend]:
    """The loggers of `log.backends`, which write into the run's folder.

    `name`: the run's; `resolved`: its whole config as TOML.
    """
    opened: list[Backend] = []
    with writing(folder):
        if "wandb" in config.backends and config.wandb != "disabled":
            opened.append(_wandb(config, name, folder, resolved))
        if "tensorboard" in config.backends:
            opened.append(_tensorboard(folder))
    return opened


def close_backend(backend: Backend, *, failed: bool) -> None:
    """Writes what is left. torchtune's logger would tell Weights & Biases that all went well."""
    if failed and (wandb := getattr(backend, "_wandb", None)) is not None and wandb.run:
        wandb.finish(exit_code=1)
    backend.close()


def _wandb(config: LogConfig, name: str, folder: Path, resolved: str) -> Backend:
    """A run that is resumed goes on under the id that is kept in its folder."""
    from torchtune.training.metric_logging import WandBLogger

    kept = folder / "wandb_id"
    if not kept.exists():
        with atomic_write(kept) as file:
            file.write(secrets.token_hex(4))
    return WandBLogger(
        config.project,
        log_dir=str(folder),
        name=name,
        mode=config.wandb,
        id=kept.read_text().strip(),
        resume="allow",
        config=tomli.loads(resolved),
    )


def _tensorboard(folder: Path) -> Backend:
    from torchtune.training.metric_logging import TensorBoardLogger

    return TensorBoardLogger(str(folder / "tensorboard"), organize_logs=False)
