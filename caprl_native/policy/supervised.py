"""One supervised update: rows with scored tokens -> micro-batches -> loss -> optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import ParallelDims, sum_over_ranks
from caprl_native.observe.metrics import Norm
from caprl_native.policy.fsdp import reduce_gradients
from caprl_native.policy.model import Policy
from caprl_native.policy.optim import apply_gradients, squared_norms
from caprl_native.policy.packing import (
    ASSISTANT,
    NOBODY,
    SPEAKERS,
    MicroBatch,
    PackedRow,
    micro_batches,
)


@dataclass
class SupervisedLearner:
    """Turns rows into optimizer steps.

    The loss is the mean of -log p over the assistant's tokens of all ranks, plus the mean over all
    other scored tokens, where there are any. One mean over both would drown a short answer: 1 token
    in 60 of a question that nobody could have guessed.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    config: PolicyConfig
    total_steps: int
    dims: ParallelDims

    def update(self, rows: Sequence[PackedRow], step: int) -> dict[str, float]:
        """Step `step` (from 1) on this rank's rows (a collective); the metrics of the whole batch.

        Loss and accuracy are those of the assistant's tokens. However the batch is cut, every piece
        divides by the numbers of all ranks' tokens, and pieces and ranks add up. Without a token on
        any rank nothing is done, and there are no metrics.

        Raises:
            FloatingPointError: as `apply_gradients` does.
        """
        budget = self.config.micro_batch_tokens
        batches = micro_batches(rows, budget, self.policy.positions)
        counts = self._counts(batches)
        if not counts.any():
            return {}
        totals = torch.zeros(2, dtype=torch.float64)
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            reduce_gradients(self.policy, last, once=self.config.reduce_once)
            if self.policy.adapter is not None:
                place = (step, i, self.dims.rank)
                self.policy.adapter.draw_from(*place, device=self.dims.device)
            totals += self._backward(batch.to(self.dims.device), counts)
        squared = squared_norms(self.policy).double().cpu()
        summed = sum_over_ranks(torch.cat([totals, squared]))
        loss, accuracy = (summed[:2] / counts[ASSISTANT]).tolist()
        norm = Norm(summed[2:]).value
        apply_gradients(
            self.policy,
            self.optimizer,
            self.config,
            loss,
            norm,
            step=step,
            update=step - 1,
            updates=self.total_steps,
        )
        return {
            "policy/loss": loss,
            "policy/accuracy": accuracy,
            "policy/grad_norm": norm,
            "policy/lr": self.optimizer.param_groups[0]["lr"],
        }

    def _counts(self, batches: Sequence[MicroBatch]) -> Tensor:
        """`[SPEAKERS]` float64: all ranks' tokens by speaker; those of `NOBODY` count as none."""
        counts = torch.zeros(SPEAKERS, dtype=torch.float64)
        for batch in batches:
            counts += torch.bincount(batch.speakers, minlength=SPEAKERS)
        counts[NOBODY] = 0
        return sum_over_ranks(counts)

    def _backward(self, batch: MicroBatch, counts: Tensor) -> Tensor:
        """Adds this micro-batch's gradients; returns the sums `[2]` of -log p, and of tokens that
        were the likeliest, over the assistant's tokens."""
        scores = self.policy(batch, ban=False)
        shares = torch.where(counts > 0, 1 / counts, 0.0).to(scores.logprobs)
        loss = -(scores.logprobs * shares[batch.speakers]).sum()
        # FSDP averages gradients over ranks; the pieces of the loss are to be added.
        (loss * self.dims.world).backward()
        spoken = batch.speakers == ASSISTANT
        found = (-scores.logprobs.detach()[spoken], scores.is_top[spoken])
        return torch.stack([values.double().sum().cpu() for values in found])
