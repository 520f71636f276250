"""The parts of a training run, assembled; public methods are the verbs of train.py's loop."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing

import torch

from caprl_native.batch import Batch, require_rewards, shuffle_rewards
from caprl_native.config.lora import LoraConfig
from caprl_native.config.schema import Config, RolloutConfig
from caprl_native.data.carried import History
from caprl_native.data.hold_out import hold_out
from caprl_native.data.invalid import Invalid
from caprl_native.data.loader import (
    LoadedSample,
    LoaderItem,
    SkipLedger,
    build_loader,
    eval_batches,
)
from caprl_native.data.picks import left_by
from caprl_native.data.question_columns import QuestionColumns
from caprl_native.data.records import Records, read_records
from caprl_native.data.reduced import ReducedLedger
from caprl_native.data.shared_media import SharedMedia
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.world import ParallelDims, gather_objects, sum_counts
from caprl_native.lifecycle import Lifecycle
from caprl_native.observe.alarms import Alarms, caption_metrics, first_lengths
from caprl_native.observe.memory import give_back_freed_memory
from caprl_native.observe.metrics import Sum, group_metrics, numbers
from caprl_native.observe.rates import rates
from caprl_native.policy.advantages import assign_advantages
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.model import Policy
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.rewards.base import any_needs_questions
from caprl_native.rewards.blind import Blind
from caprl_native.rewards.prompts import says_cannot_answer
from caprl_native.rewards.rubric import Scoring, build_rubric, log_failures
from caprl_native.rollout.captioner import Captioner, PromptMismatch, Written, grouped
from caprl_native.rollout.engine import Sampling
from caprl_native.rollout.self_check import WeightsDiffer, first_sync, policy_engine
from caprl_native.rollout.weight_sync import sync
from caprl_native.run_folder import HISTORY
from caprl_native.seeds import HELD_OUT
from caprl_native.types import Group

log = logging.getLogger(__name__)

MISMATCH = "mismatch/logprob_abs_mean"
EXPLAINED = (PromptMismatch, WeightsDiffer)  # whose message says it all, too


class Trainer(Lifecycle[Config]):
    """Everything that a run holds: data, policy, engines, rewards, log. Close it at the end."""

    def __init__(self, config: Config, dims: ParallelDims) -> None:
        super().__init__(config, dims)
        self._load_data()
        self.policy = load_policy(config.policy, dims, seed=config.run.seed)
        self.optimizer = build_optimizer(self.policy, config.policy)
        reference = self._reference()
        # Last, so that they measure what memory is left.
        self.engine = policy_engine(config, self.policy)
        self.rubric = build_rubric(config.reward, config.run.seed, dims.tp_size)
        self._build_captioners()
        self.learner = Learner(
            policy=self.policy,
            reference=reference,
            optimizer=self.optimizer,
            config=config.policy,
            algorithm=config.algorithm,
            temperature=config.rollout.temperature,
            max_tokens=config.rollout.max_tokens,
            total_steps=self.total_steps,
            dims=dims,
        )
        self.open_log()

    def _load_data(self) -> None:
        config, dims = self.config, self.dims
        read = functools.partial(
            read_records,
            kind="questions" if any_needs_questions(config.reward.terms) else "media",
            media_root=config.data.media_root,
            prompt_override=config.data.prompt,
            max_media=config.media.max_per_prompt,
            invalid=Invalid.of(config.data, says_cannot_answer),
            progress=config.log.progress and dims.is_main,
        )
        columns = QuestionColumns(config.data.max_blind_accuracy, config.data.question_weights)
        share, shared = config.data.hold_out, SharedMedia() if config.data.hold_out else None
        records = read(
            config.data.files, columns=columns, shared=shared, curriculum=config.data.curriculum
        )
        self.held_out = None
        self.keep_decoded(records)
        opened = [records]
        if shared is not None:
            records, self.held_out = hold_out(records, shared, share, config.run.seed)
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
            history=History(self.folder / HISTORY if dims.is_main else None),
        )
        self.ledger = SkipLedger(config.data.max_skipped_share)
        self.reduced = ReducedLedger()
        self.held_out_ledger = SkipLedger(1.0)  # which ends no run
        if config.eval.every and config.data.eval_files:
            self.held_out = read(config.data.eval_files)
            opened.append(self.held_out)
        self.report_dropped(*opened)

    def _build_captioners(self) -> None:
        rollout, banned = self.config.rollout, tuple(self.policy.banned)
        sampling = Sampling.of(rollout, n=rollout.n, banned=banned)
        greedy = Sampling(temperature=0.0, max_tokens=rollout.max_tokens, banned=banned)
        self.captioner = Captioner(self.engine, sampling, self.config.run.seed)
        self.greedy = Captioner(self.engine, greedy, self.config.run.seed)

    def _reference(self) -> Policy | None:
        kl, policy = self.config.algorithm.kl, self.config.policy
        if not kl.weight:
            return None
        if self.policy.adapter is not None and kl.reference in ("", policy.path):
            return self.policy  # with its adapter off
        frozen = policy.replace(freeze=list(self.policy.family.parts), lora=LoraConfig())
        return load_policy(frozen, self.dims, path=kl.reference or policy.path)

    def begin(self) -> None:
        """Resumes where asked, gives the engine the weights, and compares the two."""
        super().begin()
        alarms = self.config.alarms
        first = first_lengths(self.folder, alarms.first_steps) if self.dims.is_main else []
        self.alarms = Alarms(alarms, first)
        first_sync(self.policy, self.engine, self.prepare, self.config.algorithm.mismatch_alarm)
        self.log.take_seconds()  # the first step begins here

    def next_prompts(self) -> list[LoaderItem]:
        """This rank's part of the next batch, media decoded."""
        with self.log.timed("data"):
            items = next(self.loader)
        return items

    def rollout(self, prompts: Sequence[LoaderItem], step: int, *, extra: int = 0) -> Batch:
        """n captions for each prompt; a tensor-parallel group shares them out among its ranks.

        `extra`: the step has had so many batches already, and its alarms have asked what they ask.
        """
        is_tp_leader = self.dims.tp_rank == 0
        local = prompts if is_tp_leader else []
        counts = [*self.ledger.counts(local), self.reduced.count(local)]
        self.engine.reset_caches()  # of an evaluation, which a resumed run does not repeat
        scoring = self.rubric.begin(step)
        groups = self._captions(self.captioner, prompts, step, scoring, extra)
        blind = None if extra else self._blind(prompts, step)
        return Batch(step, groups, scoring, counts, blind=blind)

    def _blind(self, prompts: Sequence[LoaderItem], step: int) -> Blind | None:
        """The samples without captions, for `alarms.blind_every`, when this step is due."""
        every = self.config.alarms.blind_every
        if not (self.config.reward.reads and every) or step % every:
            return None
        blind = Blind(self.rubric, step)
        loaded = [item for item in prompts if isinstance(item, LoadedSample)]
        for place, item in enumerate(loaded):
            blind.add(item.sample, is_local=place % self.dims.tp_size == self.dims.tp_rank)
        return blind

    def _captions(
        self,
        captioner: Captioner,
        items: Sequence[LoaderItem],
        step: int,
        scoring: Scoring,
        extra: int = 0,
    ) -> list[Group]:
        """This rank's captions. Each goes to the reward as soon as it is finished."""
        tp_rank, tp_size = self.dims.tp_rank, self.dims.tp_size
        written: list[Written] = []
        with closing(captioner.stream(items, step, extra)) as stream:
            while True:
                with self.log.timed("rollout"):
                    finished = next(stream, None)
                if finished is None:
                    return grouped(w for w in written if w.place % tp_size == tp_rank)
                with self.log.timed("reward"):
                    for w in finished:
                        is_local, media = w.place % tp_size == tp_rank, w.item.prepared.for_engine
                        scoring.add(
                            w.item.sample,
                            w.index,
                            w.rollout,
                            is_local=is_local,
                            media=media,
                            of=captioner.sampling.n,
                        )
                    scoring.work()
                written += finished

    def score(self, batch: Batch) -> None:
        """What is open is scored; every caption gets its reward, or the reason why it has none.

        Raises:
            TooManySkipped: the step's prompts could not be used, and too many before them.
        """
        with self.log.timed("reward"):
            batch.scoring.finish()
            if batch.blind is not None:
                batch.blind.finish()
            log_failures(batch.groups, batch.step)
            if self.config.run.shuffle_rewards:
                shuffle_rewards(batch.groups, self.config.run.seed, batch.step)
            # Within `timed`, so that waiting for other ranks is not booked as training.
            seen, batch.skipped, batch.reduced = batch.share()
            self.reduced.say(batch.reduced, main=self.dims.is_main)
        self.ledger.add(seen, batch.skipped, epoch_ended=self.loader.batch == 0)

    def refill(self, batch: Batch) -> None:
        """With `rollout.refill`: fresh prompts in place of groups that carry no gradient.

        Raises:
            RunError: `rollout.refill_tries` extra batches did not fill the step.
        """
        if not self.config.rollout.refill:
            return
        wanted, tries = self.config.data.batch_size, self.config.rollout.refill_tries
        flat = self.config.algorithm.flat
        batch.drop_flat(flat)
        while sum(batch.counts) < wanted:
            if not tries:
                raise RunError(
                    f"step {batch.step}: {sum(batch.counts)} of {wanted} groups carry a gradient "
                    f"after {self.config.rollout.refill_tries} extra batches; the questions are "
                    "too easy or too hard for this policy, or raise rollout.refill_tries or "
                    "rollout.n"
                )
            tries -= 1
            extra = self.config.rollout.refill_tries - tries
            fresh = self.rollout(self.next_prompts(), batch.step, extra=extra)
            self.score(fresh)
            fresh.drop_flat(flat)
            batch.absorb(fresh)
        counts = batch.counts
        while sum(counts) > wanted:  # the ranks that have most drop what is too much
            counts[counts.index(max(counts))] -= 1
        batch.keep(counts)

    def assign_advantages(self, batch: Batch) -> None:
        """Advantages within each group; groups with fewer than two rewards are not trained on.

        Raises:
            RunError: no group of any rank is left; the message gives a reason that was seen.
        """
        terms = self.config.reward.terms.items()
        weights = {name: options.weight for name, options in terms if options.weight}
        everywhere = batch.trainable_everywhere
        assign_advantages(batch.trainable, everywhere, self.config.algorithm, weights)
        require_rewards(batch)

    def update(self, batch: Batch) -> dict[str, float]:
        """One pass over the batch's groups: the policy gets better."""
        self.engine.sleep()
        self.rubric.sleep()
        with self.log.timed("train"):
            return self.learner.update(batch.trainable, batch.step - 1)

    def carry_over(self, batch: Batch) -> None:
        """What the captions leave for the prompts of later steps; nothing with most data."""
        if self.loader.history is None:
            return
        local = left_by(batch.sampled, self.config.data.history)
        entries = [entry for part in gather_objects(local) for entry in part]
        self.loader.carry(entries)
        kept = sum(bool(entry.text) for entry in entries)
        batch.left = {"data/texts_left": kept, "data/texts_empty": len(entries) - kept}

    def sync_weights(self) -> None:
        """The engine gets the policy's new weights."""
        with self.log.timed("sync"):
            self.sent = sync(self.policy, self.engine)
        self.rubric.wake()

    def report(self, batch: Batch, update: Mapping[str, float]) -> None:
        """Metrics line, rollout log, progress; the step is then done.

        Rewards are those of all that was sampled, groups that were dropped included.
        """
        self.step = batch.step
        if self.dims.device.type == "cpu":
            give_back_freed_memory()
        tokens = sum(len(r.token_ids) for g in batch.sampled for r in g.rollouts)
        local = group_metrics(batch.sampled, self.rubric.names, self.config.algorithm.flat)
        local |= caption_metrics(batch.sampled) | (batch.blind.metrics() if batch.blind else {})
        local |= self.rubric.metrics()
        local["perf/tokens_per_s"] = Sum(tokens)
        found = self.log.rollouts(batch.step, batch.sampled, local)
        if batch.blind is not None:
            self.log.blind(batch.step, batch.blind.groups)
        seconds, times = self.log.take_seconds()
        if not self.dims.is_main:
            return
        metrics = numbers(found) | dict(update) | {"data/skipped": batch.skipped}
        metrics |= {"data/reduced": batch.reduced} | batch.left
        metrics |= {"perf/step_s": seconds} | times
        if self.policy.adapter is not None:
            metrics["perf/sync_mib"] = self.sent / 2**20
        metrics["perf/tokens_per_s"] /= seconds
        gpu = torch.cuda.get_device_name() if self.dims.device.type == "cuda" else ""
        metrics |= rates(self.learner.work, times["time/train"], self.dims.world, gpu)
        metrics |= self.alarms.length_ratio(metrics)
        self.log.alarms(batch.step, self.alarms.check(batch.step, metrics))
        self._warn_of_mismatch(batch.step, metrics.get(MISMATCH, 0.0))
        self.log.metrics(batch.step, metrics)
        self.log.progress(batch.step, seconds, shown(metrics))

    def _warn_of_mismatch(self, step: int, gap: float) -> None:
        if gap > self.config.algorithm.mismatch_alarm:
            problem = (
                f"trainer and engine differ by {gap:.4f} nats per token on average, "
                f"more than algorithm.mismatch_alarm{named_cuts(self.config.rollout)}"
            )
            log.warning("step %d: %s", step, problem)
            self.log.alarms(step, {MISMATCH: problem})

    def evaluate(self, step: int) -> None:
        """Greedy captions of held-out samples, when this step is due."""
        every = self.config.eval.every
        if self.held_out is None or not every or (step % every and step != self.total_steps):
            return
        groups, skipped, reduced = self._held_out_groups(self.held_out, step)
        local = group_metrics(groups, self.rubric.names, self.config.algorithm.flat)
        found = numbers(self.log.evaluation(step, groups, local))
        metrics = {f"eval/{name}": value for name, value in found.items()}
        seconds, _ = self.log.take_seconds()  # they are no part of the next step
        metrics |= {"eval/data/skipped": skipped, "eval/data/reduced": reduced}
        metrics["eval/time_s"] = seconds
        self.log.metrics(step, metrics)

    def _held_out_groups(self, records: Records, step: int) -> tuple[list[Group], int, int]:
        """This rank's captions with their rewards; how many samples of all were skipped, and how
        many reduced."""
        config, skipped, counter, reduced = self.config, 0, ReducedLedger(), 0
        groups: list[Group] = []
        batches = eval_batches(
            records,
            config.data,
            config.media,
            shard=self.dims.data_rank,
            num_shards=self.dims.data_size,
            prepare=self.prepare,
            limit=config.eval.samples,
        )
        rubric = self.rubric.for_evaluation(config.eval.draws)
        for items in batches:
            scoring = rubric.begin(HELD_OUT)
            seen = items if self.dims.tp_rank == 0 else []
            skipped += self.held_out_ledger.update(seen, reduce=sum_counts)
            reduced += counter.count(seen)
            fresh = self._captions(self.greedy, items, HELD_OUT, scoring)
            scoring.finish()
            log_failures(fresh, step)
            groups += fresh
        return groups, skipped, sum_counts([reduced])[0]

    def close(self) -> None:
        """Stops engines, workers and logs."""
        self.rubric.close()
        self.engine.close()
        super().close()


def named_cuts(rollout: RolloutConfig) -> str:
    """The settings by which the engine draws from other probabilities than the trainer's."""
    cuts = {"top_k": rollout.top_k > 0, "top_p": rollout.top_p < 1}
    named = [f"rollout.{k} = {getattr(rollout, k)}" for k, cuts_off in cuts.items() if cuts_off]
    return f"; {' and '.join(named)} cut off what the engine draws from" if named else ""


def shown(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the progress bar shows of a step."""
    reward = metrics.get("reward/total/mean", float("nan"))
    return {"reward": f"{reward:.3f}", "tok/s": f"{metrics['perf/tokens_per_s']:.0f}"}
