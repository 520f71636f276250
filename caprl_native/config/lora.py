"""Low-rank adapters: what of the policy is trained where its own weights are not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from caprl_native.bounds import Must
from caprl_native.config.fields import Table

PARTS = ("vision", "projector", "language")  # of a model, as policy.freeze names them


def _are_targets(targets: list[str]) -> bool:
    """Each is a part, a module's name, or PART.NAME."""
    names = [target.partition(".") for target in targets]
    known = all(part and (not dot or (part in PARTS and name)) for part, dot, name in names)
    return bool(targets) and known and len(set(targets)) == len(targets)


class LoraConfig(Table):
    rank: int = Field(
        0,
        ge=0,
        le=512,
        description="Rank r of the adapter: W x + (alpha / r) B A x, of which A and B are trained; "
        "0: no adapter, the weights themselves are.",
    )
    alpha: float = Field(
        0.0, ge=0, description="Its scale is alpha / rank; 0: alpha is 2 x rank, the scale 2."
    )
    targets: Annotated[
        list[str],
        Must(_are_targets, 'parts ("language"), modules ("q_proj") or both ("vision.qkv"), once'),
    ] = Field(
        ["language"],
        description='Linear layers that get one: all of a part ("language", "vision", '
        '"projector"), those of a name in the language model ("q_proj"), or of a name in another '
        'part ("vision.qkv").',
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Supervised runs: share of the adapter's inputs that are dropped.",
    )
    sync: Literal["adapter", "merged"] = Field(
        "adapter",
        description="What the engine is sent: the adapter, for vLLM's own layers with one, or the "
        "adapted parts' weights with the adapter in them, rounded to policy.dtype; for models that "
        "vLLM has no adapters for, and where its products cost the engine more than they save.",
    )
    export: Literal["merged", "adapter"] = Field(
        "merged",
        description="What run.export writes at the end: a whole model with the adapter in its "
        "weights, or the adapter alone, as peft has it; a checkpoint's is always the adapter.",
    )

    @property
    def is_on(self) -> bool:
        """Whether there is an adapter."""
        return self.rank > 0

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / self.rank if self.alpha else 2.0

    @property
    def parts(self) -> set[str]:
        """The parts in which something may be adapted."""
        return {part_of(target) for target in self.targets}

    def covers(self, part: str, module: str) -> bool:
        """Whether a linear layer of this part gets an adapter; `module`: its name."""
        last = module.rpartition(".")[2]
        wanted = {part, f"{part}.{last}"} | ({last} if part == "language" else set())
        return not wanted.isdisjoint(self.targets)


def part_of(target: str) -> str:
    """The part that a target is in."""
    first = target.partition(".")[0]
    return first if first in PARTS else "language"
