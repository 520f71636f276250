"""Captions from the current policy: prompts in, groups of rollouts out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

from caprl_native.data.loader import LoadedSample, LoaderItem
from caprl_native.rollout.engine import Engine, Finished, Sampling
from caprl_native.rollout.rendering import Rendering, render_ahead
from caprl_native.seeds import seed_of
from caprl_native.types import Group, Rollout


class PromptMismatch(RuntimeError):
    """The engine was prompted with other tokens than the trainer would score."""


@dataclass(frozen=True)
class Written:
    """A caption that has just been finished: rollout `index` of `item`, the `place`-th of all."""

    place: int
    item: LoadedSample
    index: int
    rollout: Rollout


@dataclass
class Captioner:
    """Writes `n` captions per prompt with an engine. Seeds depend on run, step and sample alone,
    and on which of a step's batches it is: the same sample may be in two of them."""

    engine: Engine
    sampling: Sampling
    seed: int
    ahead: int = field(default_factory=render_ahead)  # prompts rendered while the engine steps

    def write(self, items: Sequence[LoaderItem], step: int) -> list[Group]:
        """Groups for the items that could be loaded, in order.

        Raises:
            PromptMismatch: naming the sample (invariant: what is sampled from is what is scored).
        """
        return grouped(written for passed in self.stream(items, step) for written in passed)

    def stream(
        self, items: Sequence[LoaderItem], step: int, extra: int = 0
    ) -> Generator[list[Written]]:
        """Writes the same captions; after each pass of the engine, those that ended with it.
        `extra`: the number of the step's further batch; 0: it is the first.

        A prompt is submitted when the engine's next pass has room for it, so that the first
        captions grow while later prompts are rendered. When that is depends on the prompts' lengths
        alone, not on the clock: ranks of one engine must submit the same before the same pass.

        Raises:
            PromptMismatch: as `write` does.
        """
        loaded = [item for item in items if isinstance(item, LoadedSample)]
        rendering = Rendering(self.engine, [i.prepared.for_engine for i in loaded], self.ahead)
        places: dict[str, int] = {}
        room, waiting = self.engine.batch_tokens, 0  # tokens of submitted prompts, not yet read
        try:
            while len(places) < len(loaded) or self.engine.unfinished:
                while len(places) < len(loaded) and waiting < room:
                    item = loaded[len(places)]
                    places[self._submit(item, rendering, step, extra)] = len(places)
                    waiting += len(item.prepared)
                ended = ((places[f.request], f) for f in self.engine.step())
                waiting = max(0, waiting - room)
                yield [_written(place, loaded[place], finished) for place, finished in ended]
        finally:
            self.engine.abort()
            rendering.close()

    def _submit(self, item: LoadedSample, rendering: Rendering, step: int, extra: int) -> str:
        """Queues a prompt. The trainer's processor took it, so that an engine that does not holds
        another model: an error that names the sample, not a skip."""
        further = ("extra", extra) if extra else ()
        seed = seed_of("caption", self.seed, step, item.sample.id, *further)
        try:
            return self.engine.add(rendering.next(), self.sampling, seed)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise PromptMismatch(
                f"sample {item.sample.id} ({item.sample.source}): the engine cannot take the "
                f"prompt: {type(error).__name__}: {lines[0][:300]}"
            ) from error


def grouped(written: Iterable[Written]) -> list[Group]:
    """The captions of each prompt together, in the order of prompts and numbers."""
    groups: dict[int, Group] = {}
    for w in sorted(written, key=lambda w: (w.place, w.index)):
        group = groups.setdefault(w.place, Group(w.item.sample, w.item.prepared, []))
        group.rollouts.append(w.rollout)
    return list(groups.values())


def _written(place: int, item: LoadedSample, finished: Finished) -> Written:
    ours = item.prepared.ids.tolist()
    if finished.prompt_ids != ours:
        pairs = enumerate(zip(ours, finished.prompt_ids, strict=False))
        shorter = min(len(ours), len(finished.prompt_ids))
        same = next((i for i, (a, b) in pairs if a != b), shorter)
        raise PromptMismatch(
            f"sample {item.sample.id} ({item.sample.source}): the engine's prompt has "
            f"{len(finished.prompt_ids)} tokens, the trainer's {len(ours)}; they part at position "
            f"{same}"
        )
    c = finished.completion
    rollout = Rollout(c.token_ids, c.logprobs, c.finish_reason, c.text, thoughts=c.thoughts)
    return Written(place, item, finished.index, rollout)
