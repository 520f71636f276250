"""Three updates through the trainer's Learner, Policy and FSDP: loss, memory, speed.

On CUDA the model has Qwen3-VL-2B's shapes, and a prompt is a video of about 8,000 tokens with 8
responses of 1,000; on a CPU both are small.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from common import LONG, N, Shape, Watch, matmul_flops
from training import Bench

from caprl_native.config.schema import Config
from caprl_native.dry_run import needs_of
from caprl_native.policy.model_size import read_model_size
from smoke.findings import (
    NOT_ON_CPU,
    Check,
    Finding,
    Options,
    at_least,
    at_most,
    holds,
    run_part,
)
from smoke.models import shared_model

UPDATES = 3
PROMPTS = 2  # of an update, a micro-batch each
SMALL = Shape("video", 24, frames=8, size=(64, 64))
MIB = 2**20


class Updates:
    """The updates' figures, and what they are compared with."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bench = Bench(shared_model(options), checkpointing=True)
        self.groups = self.bench.groups(SMALL if options.cpu else LONG, N, PROMPTS)
        group = self.groups[0]
        self.lengths = len(group.prompt), len(group.rollouts[0].token_ids)
        self.budget = self.lengths[0] + N * self.lengths[1]
        self.seconds: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self.peak = 0

    def run(self) -> Finding:
        """All updates: the seconds of the last."""
        with Watch() as watch:
            for _ in range(UPDATES):
                began = time.perf_counter()
                self.metrics.append(self.bench.update(self.groups, self.budget))
                self.seconds.append(time.perf_counter() - began)
        cuda = torch.cuda.is_available()
        self.peak = torch.cuda.max_memory_allocated() if cuda else watch.extra
        return Finding(f"{self.seconds[-1]:.2f} s, the first {self.seconds[0]:.1f} s")

    def finite(self) -> Finding:
        names = ("policy/loss", "policy/grad_norm")
        values = [m[name] for m in self.metrics for name in names]
        told = ", ".join(f"{m[names[0]]:.4f}" for m in self.metrics)
        good = len(values) == 2 * UPDATES and all(map(math.isfinite, values))
        return holds(f"losses {told}", good, "finite")

    def moves(self) -> Finding:
        """The gradient's norm: what is zero teaches nothing."""
        smallest = min(m["policy/grad_norm"] for m in self.metrics)
        return at_least(smallest, 1e-6)

    @property
    def planned(self) -> float:
        """Bytes that the planner sees in training."""
        config = Config()
        config.policy = self.bench.config.replace(micro_batch_tokens=self.budget)
        size = read_model_size(self.bench.path)
        assert size is not None
        needs = needs_of(config, size, None, 1)
        return sum((needs.kept(1) | needs.passing()).values())

    def memory(self) -> Finding:
        if self.options.cpu:
            return NOT_ON_CPU
        return at_most(self.peak / self.planned, self.options.max_memory_ratio)

    def tokens_per_second(self) -> float:
        return PROMPTS * self.budget / min(self.seconds)

    def utilisation(self) -> Finding:
        """Of a large matrix product's rate, by the model's arithmetic; recomputation does not
        count."""
        flops = self.bench.learner.work.flops / min(self.seconds)
        best = matmul_flops(self.bench.learner.dims.device, 1024 if self.options.cpu else 8192)
        return Finding(f"{flops / 1e12:.3g} of {best / 1e12:.3g} TFLOP/s, {flops / best:.1%}")

    def mfu(self) -> Finding:
        """The trainer's metric: of the device's peak, if that is known."""
        if self.options.cpu:
            return NOT_ON_CPU
        from caprl_native.observe.rates import rates

        work, device = self.bench.learner.work, torch.cuda.get_device_name()
        told = rates(work, min(self.seconds), self.bench.learner.dims.world, device)
        return Finding(told.get("perf/mfu", f"no peak known for {device}"))


def checks(options: Options) -> Iterator[Check]:
    """The updates, then what was seen of them."""
    updates = Updates(options)
    prompt, response = updates.lengths
    shape = f"{PROMPTS} x ({prompt:,} + {N} x {response:,}) tokens"
    yield f"{UPDATES} updates of {shape}", updates.run
    yield "losses and gradient norms", updates.finite
    yield "smallest gradient norm", updates.moves
    yield "tokens/s", lambda: Finding(round(updates.tokens_per_second()))
    yield "rate of the model's arithmetic", updates.utilisation
    yield "perf/mfu", updates.mfu
    yield "peak memory, MiB", lambda: Finding(round(updates.peak / MIB))
    yield "planned memory, MiB", lambda: Finding(round(updates.planned / MIB))
    yield "peak / planned memory", updates.memory


if __name__ == "__main__":
    run_part("updates", checks)
