"""Captions from the current policy: prompts in, groups of rollouts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caprl_native.data.loader import Item, Loaded
from caprl_native.rollout.engine import Engine, Generated, Sampling
from caprl_native.seeds import seed_of
from caprl_native.types import Group, Rollout


class PromptMismatch(RuntimeError):
    """The engine was prompted with other tokens than the trainer would score."""


@dataclass
class Captioner:
    """Writes `n` captions per prompt with an engine. Seeds depend on run, step and sample alone."""

    engine: Engine
    sampling: Sampling
    seed: int

    def write(self, items: Sequence[Item], step: int) -> list[Group]:
        """Groups for the items that could be loaded, in order.

        Raises:
            PromptMismatch: naming the sample (invariant: what is sampled from is what is scored).
        """
        loaded = [item for item in items if isinstance(item, Loaded)]
        outputs = self.engine.generate(
            [item.prepared.engine for item in loaded],
            self.sampling,
            [seed_of("caption", self.seed, step, item.sample.id) for item in loaded],
        )
        return [_group(item, out) for item, out in zip(loaded, outputs, strict=True)]


def _group(item: Loaded, out: Generated) -> Group:
    ours = item.prepared.ids.tolist()
    if out.prompt_ids != ours:
        same = next(
            (i for i, (a, b) in enumerate(zip(ours, out.prompt_ids, strict=False)) if a != b),
            min(len(ours), len(out.prompt_ids)),
        )
        raise PromptMismatch(
            f"sample {item.sample.id} ({item.sample.source}): the engine's prompt has "
            f"{len(out.prompt_ids)} tokens, the trainer's {len(ours)}; they part at position {same}"
        )
    rollouts = [
        Rollout(c.token_ids, c.logprobs, c.finish_reason, c.text)
        for c in out.completions
    ]  # fmt: skip
    return Group(item.sample, item.prepared, rollouts)
