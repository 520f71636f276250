"""The parts of a supervised run; public methods are the verbs of sft.py's loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from caprl_native.config.schema import SftConfig
from caprl_native.data.hold_out import hold_out
from caprl_native.data.invalid import Invalid
from caprl_native.data.loader import (
    LoadedSample,
    LoaderItem,
    SkipLedger,
    build_loader,
    eval_batches,
)
from caprl_native.data.records import Records, read_records
from caprl_native.data.reduced import ReducedLedger
from caprl_native.data.shared_media import SharedMedia
from caprl_native.distributed.world import ParallelDims, sum_counts
from caprl_native.lifecycle import Lifecycle
from caprl_native.policy.examples import ExampleBuilder
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.policy.supervised import SupervisedLearner

log = logging.getLogger(__name__)


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
        share = data.hold_out
        shared = SharedMedia() if share else None
        records = self._read(config, data.files, data.curriculum, shared)
        self.held_out: Records | None = None
        self.keep_decoded(records)
        opened = [records]
        if shared is not None:
            records, self.held_out = hold_out(records, shared, share, config.run.seed)
        elif config.eval.every and data.eval_files:
            self.held_out = self._read(config, data.eval_files)
            opened.append(self.held_out)
        self.report_dropped(*opened)
        prompts = PromptBuilder(path, config.media, data.max_prompt_tokens)
        self.prepare = ExampleBuilder(prompts, data.loss_on, data.max_tokens)
        self.loader = build_loader(
            records,
            data,
            config.media,
            seed=config.run.seed,
            shard=self.dims.rank,
            num_shards=self.dims.world,
            prepare=self.prepare,
        )
        self.ledger = SkipLedger(data.max_skipped_share)
        self.held_out_ledger = SkipLedger(1.0)  # which ends no run
        self.reduced, self.counted = ReducedLedger(), [0, 0]

    def _read(
        self,
        config: SftConfig,
        files: Sequence[str],
        curriculum: str = "",
        shared: SharedMedia | None = None,
    ) -> Records:
        return read_records(
            files,
            config.data.media_root,
            kind="response",
            prompt_override=config.data.prompt,
            max_media=config.media.max_per_prompt,
            shared=shared,
            invalid=Invalid.of(config.data),
            curriculum=curriculum,
            progress=config.log.progress and self.dims.is_main,
        )

    def next_rows(self) -> list[PackedRow]:
        """This rank's part of the next batch, media decoded; samples that cannot be used are
        counted.

        Raises:
            TooManySkipped: more of them than `data.max_skipped_share` allows.
        """
        with self.log.timed("data"):
            items = next(self.loader)
            self.ledger.update(items, reduce=sum_counts)
            rows = _rows(items)
            self.counted = sum_counts([self.reduced.count(items), sum(r.was_cut for r in rows)])
            self.reduced.say(self.counted[0], main=self.dims.is_main)
        return rows

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
        reduced, cut = self.counted
        counted = {"data/reduced": float(reduced), "data/cut": float(cut), "perf/step_s": seconds}
        passed = self.learner.passed.rates(times["time/update"], self.dims.world)
        self.log.metrics(step, {**metrics, **counted, **passed})
        self.log.progress(step, seconds, shown)

    def evaluate(self, step: int) -> None:
        """Loss and accuracy on held-out samples' answers, when this step is due."""
        every = self.config.eval.every
        if self.held_out is None or not every or (step % every and step != self.total_steps):
            return
        batches = eval_batches(
            self.held_out,
            self.config.data,
            self.config.media,
            shard=self.dims.rank,
            num_shards=self.dims.world,
            prepare=self.prepare,
            limit=self.config.eval.samples,
        )
        total, right, count, skipped = 0.0, 0.0, 0.0, 0
        for items in batches:
            skipped += self.held_out_ledger.update(items, reduce=sum_counts)
            found = self.learner.evaluate(_rows(items)).tolist()
            total, right, count = (a + b for a, b in zip((total, right, count), found, strict=True))
        seconds, _ = self.log.take_seconds()  # they are no part of the next step
        means = {"eval/loss": total / count, "eval/accuracy": right / count} if count else {}
        counts = {"eval/tokens": count, "eval/data/skipped": float(skipped)}
        self.log.metrics(step, {**means, **counts, "eval/time_s": seconds})


def _rows(items: Sequence[LoaderItem]) -> list[PackedRow]:
    return [item.prepared for item in items if isinstance(item, LoadedSample)]
