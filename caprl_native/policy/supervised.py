"""One supervised update: rows with scored tokens -> micro-batches -> loss -> optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import ParallelDims, sum_over_ranks
from caprl_native.observe.metrics import Norm
from caprl_native.policy.fsdp import reduce_gradients
from caprl_native.policy.logprobs import TokenScores
from caprl_native.policy.model import Policy
from caprl_native.policy.optim import apply_gradients, squared_norms
from caprl_native.policy.packing import ASSISTANT, NOBODY, SPEAKERS, MicroBatch, PackedRow
from caprl_native.policy.side_by_side import sequence_batches


@dataclass(frozen=True)
class Passed:
    """What went through the model in an update, over all ranks. `positions`: of the tokens, and of
    what only filled micro-batches up."""

    tokens: float = 0.0
    positions: float = 0.0

    def rates(self, seconds: float, ranks: int) -> dict[str, float]:
        """Metrics of an update that took so long on so many ranks."""
        return {
            "perf/train_tokens_per_s_per_gpu": self.tokens / seconds / ranks,
            "perf/padding": 1.0 - self.tokens / self.positions if self.positions else 0.0,
        }


@dataclass
class SupervisedLearner:
    """Turns rows into optimizer steps.

    The loss is the mean of -log p over the assistant's tokens of all ranks, plus the mean over all
    other scored tokens, where there are any. One mean over both would drown a short answer: 1 token
    in 60 of a question that nobody could have guessed. `passed`: of the last update.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    config: PolicyConfig
    total_steps: int
    dims: ParallelDims
    passed: Passed = field(default_factory=Passed)

    def update(self, rows: Sequence[PackedRow], step: int) -> dict[str, float]:
        """Step `step` (from 1) on this rank's rows (a collective); the metrics of the whole batch.

        Loss and accuracy are those of the assistant's tokens. However the batch is cut, every piece
        divides by the numbers of all ranks' tokens, and pieces and ranks add up. Without a token on
        any rank nothing is done, and there are no metrics.

        Raises:
            FloatingPointError: as `apply_gradients` does.
        """
        batches = self._batches(rows)
        counts = self._counts(batches, rows)
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

    @torch.no_grad()
    def evaluate(self, rows: Sequence[PackedRow]) -> Tensor:
        """`[3]` float64 of all ranks' rows (a collective), over the assistant's tokens: the sum of
        -log p, how many were the likeliest, and how many there are."""
        totals = torch.zeros(3, dtype=torch.float64)
        for batch in self._batches(rows):
            batch = batch.to(self.dims.device)
            found = _sums(self.policy(batch, ban=False), batch.speakers)
            totals += torch.cat([found, (batch.speakers == ASSISTANT).sum()[None].double().cpu()])
        return sum_over_ranks(totals)

    def _batches(self, rows: Sequence[PackedRow]) -> list[MicroBatch]:
        return sequence_batches(rows, self.config.micro_batch_tokens, self.policy.positions)

    def _counts(self, batches: Sequence[MicroBatch], rows: Sequence[PackedRow]) -> Tensor:
        """`[SPEAKERS]` float64: all ranks' tokens by speaker; those of `NOBODY` count as none."""
        counts = torch.zeros(SPEAKERS, dtype=torch.float64)
        for batch in batches:
            counts += torch.bincount(batch.speakers, minlength=SPEAKERS)
        counts[NOBODY] = 0
        passed = [sum(map(len, rows)), sum(batch.ids.numel() for batch in batches)]
        *numbers, tokens, positions = sum_over_ranks(
            torch.cat([counts, torch.tensor(passed, dtype=torch.float64)])
        )
        self.passed = Passed(tokens.item(), positions.item())
        return torch.stack(numbers)

    def _backward(self, batch: MicroBatch, counts: Tensor) -> Tensor:
        """Adds this micro-batch's gradients; returns the sums `[2]` of -log p, and of tokens that
        were the likeliest, over the assistant's tokens."""
        scores = self.policy(batch, ban=False)
        shares = torch.where(counts > 0, 1 / counts, 0.0).to(scores.logprobs)
        loss = -(scores.logprobs * shares[batch.speakers]).sum()
        # FSDP averages gradients over ranks; the pieces of the loss are to be added.
        (loss * self.dims.world).backward()
        return _sums(scores, batch.speakers)


def _sums(scores: TokenScores, speakers: Tensor) -> Tensor:
    """`[2]` float64, on the CPU: of -log p, and of tokens that were the likeliest, over the
    assistant's."""
    spoken = speakers == ASSISTANT
    found = (-scores.logprobs.detach()[spoken], scores.is_top[spoken])
    return torch.stack([values.double().sum().cpu() for values in found])
