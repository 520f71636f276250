"""What an adapter belongs to: the model it was trained on, by path and checksums.

A checkpoint of a policy with an adapter holds none of the base's weights. It says which they were,
and is not resumed on others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caprl_native.checkpoint_files import CheckpointError, checksums
from caprl_native.config.lora import LoraConfig
from caprl_native.policy.model_check import weight_files


@dataclass(frozen=True)
class BaseModel:
    """Part of a run's checkpoints (a `Stateful`): the base's directory, and the adapter's form."""

    path: str
    lora: LoraConfig

    def state_dict(self) -> dict[str, Any]:
        """Path, size and SHA-256 of each file of weights, and the adapter's settings (a
        collective)."""
        return {
            "path": str(Path(self.path).resolve()),
            "files": files_of(self.path),
            "rank": self.lora.rank,
            "alpha": self.lora.alpha,
            "targets": self.lora.targets,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError unless the adapter was trained on this base, with this scale; the
        path may be another one (a collective)."""
        its = LoraConfig(rank=state["rank"], alpha=state["alpha"]).scale
        if its != self.lora.scale:
            raise CheckpointError(
                f"the checkpoint's adapter has the scale alpha / rank = {its:g}, policy.lora says "
                f"{self.lora.scale:g}: restore policy.lora.alpha"
            )
        require_base(state, self.path, "policy.path")


def require_base(state: dict[str, Any], path: str | Path, setting: str) -> None:
    """Raises CheckpointError unless this directory, given by a setting, holds the weights that the
    adapter of a checkpoint was trained on (a collective)."""
    found, wanted = files_of(str(path)), state["files"]
    differing = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]
    if differing:
        raise CheckpointError(
            f"the checkpoint's adapter was trained on {state['path']}; {setting} = {str(path)!r} "
            f"holds other weights ({differing[0]}): restore it"
        )


@functools.cache
def files_of(path: str) -> dict[str, list[Any]]:
    """Size and SHA-256 of each file of a directory's weights, read once (a collective)."""
    folder = Path(path)
    return checksums(folder, [file.name for file in weight_files(folder)])
