"""One policy update: groups with advantages -> micro-batches -> loss -> optimizer step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from caprl_native.algorithm.aggregation import Denominators
from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
from caprl_native.distributed.world import ParallelDims
from caprl_native.observe.metrics import Metric, Norm, Sum, added, numbers, over_ranks, over_updates
from caprl_native.policy.balance import Costs, Shares, balanced
from caprl_native.policy.flops import Flops, Work
from caprl_native.policy.fsdp import reduce_gradients
from caprl_native.policy.model import Policy
from caprl_native.policy.objective import TokenTables, needs_old_logprobs, objective
from caprl_native.policy.optim import apply_gradients, squared_norms
from caprl_native.policy.packing import MicroBatch, PackedRow, micro_batches
from caprl_native.policy.plan import Plan
from caprl_native.types import Group, Rollout

Pieces = list[tuple[MicroBatch, list[Rollout]]]  # micro-batches with the rollouts of their rows


@dataclass
class Learner:
    """Turns groups into optimizer steps. `reference`: only where the KL term has a weight; the
    policy itself stands for what it is with its adapter off.

    `work`: what the last update took, over all ranks.
    """

    policy: Policy
    reference: Policy | None
    optimizer: torch.optim.Optimizer
    config: PolicyConfig
    algorithm: AlgorithmConfig
    temperature: float
    max_tokens: int
    total_steps: int
    dims: ParallelDims
    work: Work = field(default_factory=Work)

    def update(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        """Trains on this rank's groups (a collective); returns the metrics of the whole batch.

        The loss is that of the global batch however it is cut: every piece divides by the global
        numbers of tokens and sequences, and pieces and ranks add up. A batch of fewer groups than
        `updates` makes fewer optimizer steps.
        """
        updates = self.algorithm.updates
        parts = [groups[u::updates] for u in range(updates)]
        mini, shares = _filled(*balanced(parts, Costs.of(self.policy), self.dims.device))
        plans = [Plan.of(s, self.config.micro_batch_tokens) for s in shares]
        pieces = [self._batches(g, p) for g, p in zip(mini, plans, strict=True)]
        shapes = (shape for ranks in shares for share in ranks for shape in share)
        self.work = Work.of(
            shapes,
            Flops.of(self.policy),
            scored=self._is_stale(len(mini)),
            reference=self.reference is not None,
            shared=self.reference is self.policy,
        )
        with self._vision_cached(pieces, plans):
            return self._updates(pieces, plans, step)

    def _updates(self, pieces: list[Pieces], plans: Sequence[Plan], step: int) -> dict[str, float]:
        updates = self.algorithm.updates
        stale = self._is_stale(len(pieces))
        old = [self._score(self.policy, p) if stale else None for p in pieces]
        reference = [self._score_reference(p) for p in pieces]
        found = [
            self._step(
                piece, self._denominators(plans[u]), old[u], reference[u], step * updates + u
            )
            for u, piece in enumerate(pieces)
        ]
        return numbers(over_updates(found))

    def _is_stale(self, updates: int) -> bool:
        """Whether log-probs before the update take a pass of their own."""
        return updates > 1 and needs_old_logprobs(self.algorithm)

    @contextmanager
    def _vision_cached(self, pieces: list[Pieces], plans: Sequence[Plan]) -> Iterator[None]:
        """A frozen vision tower looks once at what would otherwise be in several passes of a step.

        Where nothing would be, on no rank, it is spared: what it saw fills memory until the end.
        """
        seen = [p for batches in pieces for batch, _ in batches for p in batch.media]
        prompts = list({id(p): p for p in seen}.values())
        media = [sum(counts) for counts in zip(*(p.media for p in plans), strict=True)]
        passes = [sum(counts) for counts in zip(*(p.passes for p in plans), strict=True)]
        again = any(more > once for once, more in zip(media, passes, strict=True))
        models = {self.policy: len(pieces) > 1 or again or self.reference is self.policy}
        if self.reference and self.reference is not self.policy:
            models[self.reference] = again
        caching = [model for model, worth in models.items() if worth and model.tower_is_frozen]
        try:
            for model in caching:
                model.cache_vision(prompts, max(media))
            yield
        finally:
            for model in caching:
                model.clear_vision_cache()

    def _batches(self, groups: Sequence[Group], plan: Plan) -> Pieces:
        """Micro-batches with their rows' rollouts; as many on every rank."""
        rollouts = [r for g in groups for r in g.scored]
        rows, first = [], 0
        for group in groups:
            scored = group.scored
            index = list(range(first, first + len(scored)))
            rows.append(PackedRow(group.prompt, [r.token_ids for r in scored], index))
            first += len(scored)
        batches = micro_batches(
            rows, self.config.micro_batch_tokens, self.policy.positions, plan.micro_batches
        )
        return [(batch, [rollouts[i] for i in batch.index]) for batch in batches]

    @torch.no_grad()
    def _score(self, model: Policy, batches: Pieces) -> list[Tensor]:
        """Log-prob tables `[R, T]` under `model`."""
        tables = []
        for batch, _ in batches:
            batch = batch.to(self.dims.device)
            logprobs = model(batch, self.temperature).logprobs
            tables.append(batch.table(logprobs))
        return tables

    def _score_reference(self, batches: Pieces) -> list[Tensor] | None:
        adapter = self.policy.adapter
        if self.reference is None:
            return None
        if self.reference is not self.policy or adapter is None:
            return self._score(self.reference, batches)
        with adapter.off():
            return self._score(self.policy, batches)

    def _step(
        self,
        batches: Pieces,
        denominators: Denominators,
        old: list[Tensor] | None,
        reference: list[Tensor] | None,
        number: int,
    ) -> dict[str, Metric]:
        """One optimizer step over the global (mini-)batch."""
        local: dict[str, Metric] = {}
        for i, (batch, rollouts) in enumerate(batches):
            loss, metrics = self._loss(
                batch.to(self.dims.device),
                rollouts,
                denominators,
                old[i] if old else None,
                reference[i] if reference else None,
            )
            last = i == len(batches) - 1
            reduce_gradients(self.policy, last, once=self.config.reduce_once)
            # FSDP averages gradients over ranks; the pieces of the loss are to be added.
            (loss * self.dims.world).backward()
            local = added((local, metrics))
        found = over_ranks(local | {"policy/grad_norm": Norm(squared_norms(self.policy))})
        apply_gradients(
            self.policy,
            self.optimizer,
            self.config,
            found["policy/loss"].value or 0.0,
            found["policy/grad_norm"].value or 0.0,
            step=number // self.algorithm.updates + 1,
            update=number,
            updates=self.total_steps * self.algorithm.updates,
        )
        lr = self.optimizer.param_groups[0]["lr"]
        return found | {"policy/lr": Sum(lr)}

    def _denominators(self, plan: Plan) -> Denominators:
        return Denominators(float(plan.tokens), float(plan.sequences), float(self.max_tokens))

    def _loss(
        self,
        batch: MicroBatch,
        rollouts: list[Rollout],
        denominators: Denominators,
        old: Tensor | None,
        reference: Tensor | None,
    ) -> tuple[Tensor, dict[str, Metric]]:
        """This micro-batch's share of the loss and of the metrics."""
        flat, entropy, _ = self.policy(batch, self.temperature)
        if not rollouts:
            return flat.sum() * 0.0, {}
        device = flat.device
        logprobs = batch.table(flat)
        tables = TokenTables(
            logprobs=logprobs,
            entropy=entropy,
            engine=_padded([r.logprobs for r in rollouts], batch.shape).to(device),
            before=logprobs.detach() if old is None else old,
            reference=reference,
            advantages=torch.tensor([[r.advantage] for r in rollouts], device=device),
            mask=batch.mask,
        )
        return objective(tables, self.algorithm, denominators)


def _filled(
    mini: list[list[Group]], shares: list[Shares]
) -> tuple[list[list[Group]], list[Shares]]:
    """The mini-batches that have a group on any rank."""
    filled = [
        (ours, all_ranks) for ours, all_ranks in zip(mini, shares, strict=True) if any(all_ranks)
    ]
    return [ours for ours, _ in filled], [all_ranks for _, all_ranks in filled]


def _padded(rows: list[list[float]], shape: tuple[int, int]) -> Tensor:
    table = torch.zeros(shape)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)
    return table
