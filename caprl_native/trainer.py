"""The parts of a training run, put collective; public methods are the verbs of train.py's loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import torch
import torch.distributed as dist

from caprl_native import checkpoint
from caprl_native.algorithm.groups import flat_groups
from caprl_native.config.cli import dump
from caprl_native.config.schema import Config, RolloutConfig
from caprl_native.data.loader import (
    LoaderItem,
    SkipLedger,
    TooManySkipped,
    build_loader,
    eval_batches,
)
from caprl_native.data.records import DataError, read_records
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.signals import Interrupts
from caprl_native.distributed.world import ParallelDims, gather_objects, sum_over_ranks
from caprl_native.observe.log import RunLog
from caprl_native.observe.memory import give_back_freed_memory
from caprl_native.observe.metrics import group_metrics
from caprl_native.policy.advantages import assign_advantages
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.model_check import ModelError
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.redact import redact
from caprl_native.rewards.reader import build_reader
from caprl_native.rewards.rubric import RewardModel, Scoring, log_failures
from caprl_native.rollout.captioner import Captioner, PromptMismatch, grouped
from caprl_native.rollout.engine import Sampling
from caprl_native.rollout.self_check import WeightsDiffer, compare, policy_engine
from caprl_native.rollout.weight_sync import sync
from caprl_native.run_folder import RunFolder
from caprl_native.seeds import rng_of
from caprl_native.types import Group

log = logging.getLogger(__name__)

EXPLAINED = (
    DataError,
    TooManySkipped,
    FileNotFoundError,
    PromptMismatch,
    WeightsDiffer,
    FloatingPointError,
    RunError,
    ModelError,
)  # failures whose message says it all


class Trainer:
    """Everything that a run holds: data, policy, engines, rewards, log. Close it at the end."""

    def __init__(self, config: Config, dims: ParallelDims) -> None:
        self.config, self.dims = config, dims
        self.interrupts, self.stopping = Interrupts(), 0
        self.place = RunFolder(config.run, main=dims.is_main)
        self.folder, self.step = self.place.path, self.place.step
        self.skipped, self.dropped = 0, []
        self._load_data()
        self.policy = load_policy(config.policy, dims)
        self.optimizer = build_optimizer(self.policy, config.policy)
        self.engine = policy_engine(config, self.policy)
        self.reader = build_reader(config.reward.reader, dims.tp_size)
        self.rewards = RewardModel(config.reward, self.reader, config.run.seed)
        self._build_captioners()
        self.updater = Learner(
            policy=self.policy,
            reference=self._reference(),
            optimizer=self.optimizer,
            config=config.policy,
            algorithm=config.algorithm,
            temperature=config.rollout.temperature,
            max_tokens=config.rollout.max_tokens,
            total_steps=self.total_steps,
            dims=dims,
        )
        resolved = redact(dump(config))
        self.place.write_config(resolved)
        self.log = RunLog(
            self.folder, config.log, main=dims.is_main, name=config.run.name, resolved=resolved
        )

    def _load_data(self) -> None:
        config, dims = self.config, self.dims
        read = functools.partial(
            read_records,
            media_root=config.data.media_root,
            prompt_override=config.data.prompt,
            max_media=config.media.max_per_prompt,
        )
        records = read(config.data.files)
        self.prepare = PromptBuilder(
            config.policy.path, config.media, config.data.max_prompt_tokens
        )
        self.loader = build_loader(
            records,
            config.data,
            config.media,
            seed=config.run.seed,
            shard=dims.data_rank,
            num_shards=dims.data_size,
            prepare=self.prepare,
        )
        self.ledger = SkipLedger(config.data.max_skipped_share)
        self.held_out, self.held_out_ledger = None, SkipLedger(1.0)  # which ends no run
        if config.eval.every and config.data.eval_files:
            self.held_out = read(config.data.eval_files)

    def _build_captioners(self) -> None:
        rollout, banned = self.config.rollout, tuple(self.policy.banned)
        sampling = Sampling.of(rollout, n=rollout.n, top_k=rollout.top_k, banned=banned)
        greedy = Sampling(temperature=0.0, max_tokens=rollout.max_tokens, banned=banned)
        self.captioner = Captioner(self.engine, sampling, self.config.run.seed)
        self.greedy = Captioner(self.engine, greedy, self.config.run.seed)

    def _reference(self):
        algorithm, policy = self.config.algorithm, self.config.policy
        if not algorithm.kl_weight:
            return None
        frozen = dataclasses.replace(policy, freeze=["vision", "projector", "language"])
        return load_policy(frozen, self.dims, path=algorithm.reference or policy.path)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.run.steps or self.config.run.epochs * self.loader.batches_per_epoch

    def begin(self) -> None:
        """Resumes where asked, gives the engine the weights, and compares the two."""
        parts = {"loader": self.loader, "ledger": self.ledger}
        checkpoint.begin(self.place.checkpoints, self.step, self.policy, self.optimizer, parts)
        self.log.start(self.step, self.total_steps)
        sync(self.policy, self.engine, everything=True)
        compare(self.policy, self.engine, self.prepare, self.config.algorithm.mismatch_alarm)
        self._began = time.perf_counter()

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to come, until the last one or an interrupt."""
        self.interrupts.finish_steps()
        while self.step < self.total_steps and not self.stopping:
            yield self.step + 1

    def next_prompts(self) -> list[LoaderItem]:
        """This rank's part of the next batch, media decoded."""
        with self.log.timed("data"):
            items = next(self.loader)
        return items

    def write_captions(self, items: Sequence[LoaderItem], step: int) -> list[Group]:
        """n captions for each prompt; a tensor-parallel group shares them out among its ranks."""
        is_tp_leader = self.dims.tp_rank == 0
        lost = self.ledger.update(
            items if is_tp_leader else [], epoch_ended=self.loader.batch == 0, reduce=_sum_counts
        )
        self.skipped += lost
        self.engine.reset_caches()  # of an evaluation, which a resumed run does not repeat
        self.scoring = self.rewards.begin(step)
        return self._write(self.captioner, items, step, self.scoring)

    def _write(
        self, captioner: Captioner, items: Sequence[LoaderItem], step: int, scoring: Scoring
    ) -> list[Group]:
        """This rank's captions. Each goes to the reader as soon as it is finished."""
        tp_rank, tp_size = self.dims.tp_rank, self.dims.tp_size
        written = []
        with closing(captioner.stream(items, step)) as passes:
            while True:
                with self.log.timed("rollout"):
                    finished = next(passes, None)
                if finished is None:
                    return grouped(w for w in written if w.place % tp_size == tp_rank)
                with self.log.timed("reward"):
                    for w in finished:
                        if self.reader.collective or w.place % tp_size == tp_rank:
                            scoring.add(w.item.sample, w.index, w.rollout)
                    scoring.work()
                written += finished

    def score(self, groups: Sequence[Group], step: int) -> None:
        """The reader reads on; every caption gets its reward, or the reason why it has none."""
        with self.log.timed("reward"):
            self.scoring.finish()
            dist.barrier()  # so that waiting for other ranks is not booked as training
        log_failures(groups, step)
        if self.config.run.shuffle_rewards:
            _shuffle_rewards(groups, self.config.run.seed, step)

    def refill(self, groups: list[Group], step: int) -> list[Group]:
        """With `rollout.refill`: fresh prompts in place of groups that carry no gradient.

        Raises:
            RunError: `rollout.refill_tries` extra batches did not fill the step.
        """
        if not self.config.rollout.refill:
            return groups
        wanted, tries = self.config.data.batch_size, self.config.rollout.refill_tries
        kept = self._with_gradient(groups)
        while sum(counts := gather_objects(len(kept))) < wanted:
            if not tries:
                raise RunError(
                    f"step {step}: {sum(counts)} of {wanted} groups carry a gradient after "
                    f"{self.config.rollout.refill_tries} extra batches; the questions are too easy "
                    "or too hard for this policy, or raise rollout.refill_tries or rollout.n"
                )
            tries -= 1
            fresh = self.write_captions(self.next_prompts(), step)
            self.score(fresh, step)
            kept += self._with_gradient(fresh)
        while sum(counts) > wanted:  # the ranks that have most drop what is too much
            counts[counts.index(max(counts))] -= 1
        local_count = counts[self.dims.rank]
        self.dropped += kept[local_count:]
        return kept[:local_count]

    def _with_gradient(self, groups: list[Group]) -> list[Group]:
        """The groups that are worth training on; the others are put aside for the report."""
        self.dropped += [g for g in groups if _is_flat(g)]
        return [g for g in groups if not _is_flat(g)]

    def assign_advantages(self, groups: list[Group], step: int) -> list[Group]:
        """Advantages within each group; groups with fewer than two rewards leave the batch.

        Raises:
            RunError: no group of any rank is left; the message gives a reason that was seen.
        """
        usable = [g for g in groups if len(g.scored) >= 2]
        if not assign_advantages(usable, self.config.algorithm, {}):
            local_failures = [r.failure for g in groups for r in g.rollouts if r.failure]
            reasons = [reason for part in gather_objects(local_failures[:1]) for reason in part]
            raise RunError(
                f"step {step}: no group has two rewards, so there is nothing to learn from"
                + (f"; e.g. {reasons[0]}" if reasons else "")
            )
        return usable

    def update(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        """One pass over the batch's groups: the policy gets better."""
        self.engine.sleep()
        self.reader.sleep()
        with self.log.timed("train"):
            return self.updater.update(groups, step - 1)

    def sync_weights(self) -> None:
        """The engine gets the policy's new weights."""
        with self.log.timed("sync"):
            sync(self.policy, self.engine)
        self.reader.wake()

    def report(self, step: int, groups: Sequence[Group], update: dict[str, float]) -> None:
        """Metrics line, rollout log, progress; the step is then done.

        Rewards are those of all that was sampled, groups that were replaced included.
        """
        self.step = step
        if self.dims.device.type == "cpu":
            give_back_freed_memory()
        groups = [*groups, *self.dropped]
        metrics = group_metrics(groups) | update
        metrics["data/skipped"] = self.skipped
        self.skipped, self.dropped = 0, []
        self.log.rollouts(step, groups)
        tokens = sum(gather_objects(sum(len(r.token_ids) for g in groups for r in g.rollouts)))
        seconds = time.perf_counter() - self._began
        metrics |= {"perf/step_s": seconds, "perf/tokens_per_s": tokens / seconds}
        metrics |= self.log.take_times()
        self._began = time.perf_counter()
        self.log.metrics(step, metrics)
        reward = metrics.get("reward/total/mean", float("nan"))
        shown = {"reward": f"{reward:.3f}", "tok/s": f"{tokens / seconds:.0f}"}
        self.log.progress(step, seconds, shown)
        gap = metrics.get("mismatch/logprob_abs_mean", 0.0)
        if gap > self.config.algorithm.mismatch_alarm and self.dims.is_main:
            log.warning(
                "step %d: trainer and engine differ by %.4f nats per token on average, "
                "more than algorithm.mismatch_alarm%s",
                step,
                gap,
                named_cuts(self.config.rollout),
            )

    def evaluate(self, step: int) -> None:
        """Greedy captions of held-out samples, when this step is due."""
        every = self.config.eval.every
        if self.held_out is None or (step % every and step != self.total_steps):
            return
        began, groups, skipped = time.perf_counter(), [], 0
        batches = eval_batches(
            self.held_out,
            self.config.data,
            self.config.media,
            shard=self.dims.data_rank,
            num_shards=self.dims.data_size,
            prepare=self.prepare,
            limit=self.config.eval.samples,
        )
        accuracy = dataclasses.replace(self.config.reward.accuracy, draws=self.config.eval.draws)
        for items in batches:
            scoring = self.rewards.begin(-1, accuracy=accuracy)  # one step's draws: comparable
            seen = items if self.dims.tp_rank == 0 else []
            skipped += self.held_out_ledger.update(seen, reduce=_sum_counts)
            local_groups = self._write(self.greedy, items, -1, scoring)
            scoring.finish()
            log_failures(local_groups, step)
            groups += local_groups
        metrics = group_metrics(groups, prefix="eval/")
        metrics = {k: v for k, v in metrics.items() if not k.startswith("eval/reward/std")}
        metrics["eval/data/skipped"] = skipped
        metrics["eval/time_s"] = time.perf_counter() - began
        self.log.evaluation(step, groups)
        self.log.metrics(step, metrics)
        self.log.take_times()  # they are no part of the next step
        self._began = time.perf_counter()

    def save(self, step: int) -> None:
        """A checkpoint, when this step is due or the run is about to end."""
        every = self.config.run.save_every
        self.stopping = self.interrupts.requested()
        last = step == self.total_steps or self.stopping
        if not last and (not every or step % every):
            return
        state = {"loader": self.loader.state_dict(), "ledger": self.ledger.state_dict()}
        root, keep = self.place.checkpoints, self.config.run.keep
        with self.log.timed("save"):
            checkpoint.save(root, step, self.policy, self.optimizer, state, keep)

    def finish(self) -> None:
        """Exports the policy once the last step is done.

        Raises:
            Stopped: a signal came before; the step that it interrupted is saved.
        """
        if self.step < self.total_steps:
            self.log.close()
            self.place.stop(self.step, self.total_steps, self.stopping)
        if self.config.run.export:
            checkpoint.export(
                self.policy,
                self.config.policy.path,
                self.folder / "export",
                self.config.policy.dtype,
            )

    def close(self) -> None:
        """Stops engines, workers and logs."""
        self.loader.close()
        self.log.close()
        self.reader.close()
        self.engine.close()
        self.place.close()


def named_cuts(rollout: RolloutConfig) -> str:
    """The settings by which the engine draws from other probabilities than the trainer's."""
    cuts = {"top_k": rollout.top_k > 0, "top_p": rollout.top_p < 1}
    named = [f"rollout.{k} = {getattr(rollout, k)}" for k, cuts_off in cuts.items() if cuts_off]
    return f"; {' and '.join(named)} cut off what the engine draws from" if named else ""


def _sum_counts(counts: list[int]) -> list[int]:
    return [int(v) for v in sum_over_ranks(torch.tensor(counts, dtype=torch.int64)).tolist()]


def _is_flat(group: Group) -> bool:
    rewards = torch.tensor([r.total for r in group.scored], dtype=torch.float64)
    return len(rewards) < 2 or bool(flat_groups(rewards, [0] * len(rewards)).all())


def _shuffle_rewards(groups: Sequence[Group], seed: int, step: int) -> None:
    """The control experiment: every reward is shuffled over the batch's captions."""
    scored = [r for g in groups for r in g.scored]
    parts = gather_objects([r.total for r in scored])
    totals = [total for part in parts for total in part]
    rng_of("shuffle", seed, step).shuffle(totals)
    first = sum(len(part) for part in parts[: dist.get_rank()])
    for rollout, total in zip(scored, totals[first : first + len(scored)], strict=True):
        rollout.total = total
