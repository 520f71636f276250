"""The parts of a supervised run; public methods are the verbs of sft.py's loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from caprl_native.config.schema import SftConfig
from caprl_native.data.invalid import Invalid
from caprl_native.data.loader import LoadedSample, SkipLedger, TooManySkipped, build_loader
from caprl_native.data.records import DataError, read_records
from caprl_native.data.reduced import ReducedLedger
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.world import ParallelDims, sum_counts
from caprl_native.lifecycle import Lifecycle
from caprl_native.policy.examples import ExampleBuilder
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.policy.supervised import SupervisedLearner

log = logging.getLogger(__name__)

EXPLAINED = (
    DataError,
    TooManySkipped,
    FileNotFoundError,
    FloatingPointError,
    ModelError,
    RunError,
)  # failures whose message says it all


class SftTrainer(Lifecycle[SftConfig]):
    """Everything that a supervised run holds: data, policy, log. Close it at the end."""

    def __init__(self, config: SftConfig, dims: ParallelDims) -> None:
        super().__init__(config, dims)
        self._load_data(config)
        self.policy = load_policy(config.policy, dims, seed=config.run.seed)
        self.optimizer = build_optimizer(self.policy, config.policy)
        self.learner = SupervisedLearner(
            self.policy, self.optimizer, config.policy, self.total_steps, dims
        )
        self.open_log()

    def _load_data(self, config: SftConfig) -> None:
        data, path = config.data, config.policy.path
        records = read_records(
            data.files,
            data.media_root,
            kind="response",
            prompt_override=data.prompt,
            max_media=config.media.max_per_prompt,
            invalid=Invalid.of(data),
            curriculum=data.curriculum,
        )
        self.report_dropped(records)
        self.keep_decoded(records)
        prompts = PromptBuilder(path, config.media, data.max_prompt_tokens)
        self.loader = build_loader(
            records,
            data,
            config.media,
            seed=config.run.seed,
            shard=self.dims.rank,
            num_shards=self.dims.world,
            prepare=ExampleBuilder(prompts, data.loss_on),
        )
        self.ledger = SkipLedger(data.max_skipped_share)
        self.reduced, self.num_reduced = ReducedLedger(), 0

    def next_rows(self) -> list[PackedRow]:
        """This rank's part of the next batch, media decoded; samples that cannot be used are
        counted.

        Raises:
            TooManySkipped: more of them than `data.max_skipped_share` allows.
        """
        with self.log.timed("data"):
            items = next(self.loader)
            self.ledger.update(items, reduce=sum_counts)
            (self.num_reduced,) = sum_counts([self.reduced.count(items)])
            self.reduced.say(self.num_reduced, main=self.dims.is_main)
        return [item.prepared for item in items if isinstance(item, LoadedSample)]

    def update(self, rows: Sequence[PackedRow], step: int) -> dict[str, float]:
        """One optimizer step on all ranks' rows; no metrics where there are none."""
        with self.log.timed("update"):
            return self.learner.update(rows, step)

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the step. A step without a row is counted, and said."""
        self.step = step
        _, times = self.log.take_seconds()
        seconds = times["time/data"] + times["time/update"]
        shown = {k: f"{metrics[f'policy/{k}']:.3f}" for k in ("loss", "accuracy") if metrics}
        if not metrics:
            metrics, shown = {"policy/skipped_steps": 1.0}, {"update": "skipped"}
            if self.dims.is_main:
                log.warning("step %d: none of its samples could be used; no update", step)
        counted = {"data/reduced": float(self.num_reduced), "perf/step_s": seconds}
        self.log.metrics(step, {**metrics, **counted})
        self.log.progress(step, seconds, shown)
