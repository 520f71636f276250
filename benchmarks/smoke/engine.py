"""The policy's engine beside the trainer: seeds, log-probs, weight sync, sleep and wake."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import init_distributed
from caprl_native.policy.fsdp import load_policy
from caprl_native.rollout.weight_sync import sync
from smoke.engines import PolicyEngine, free_gib, identical, tokens
from smoke.findings import NOT_ON_CPU, Check, Finding, Options, at_least, at_most, holds, run_part

TIMES = 3  # sleeping and waking
NOISE = 0.5  # of a weight's own spread, added to it
STALE = 4.0  # how many times the gap of synced weights that of unsynced ones must be
DRIFT_GIB = 0.5  # of free memory over all sleeps


class EngineChecks:
    """The trainer's policy and its engine, in bfloat16."""

    def __init__(self, options: Options) -> None:
        self.options, dims = options, init_distributed()
        self.side = PolicyEngine(options)
        self.policy = load_policy(PolicyConfig(path=self.side.path), dims)
        self.awake: list[float] = []
        self.rounding: PolicyEngine | None = None  # an engine that rounds its logits

    def seeds(self) -> Finding:
        """Kernels of a GPU may add in another order; there the share is told, not bound."""
        one, other = (tokens(self.side.write(self.policy.banned)) for _ in range(2))
        share = identical(one, other)
        return at_least(share, 1.0) if self.options.cpu else Finding(share)

    def gap(self) -> float:
        return self.side.gap(self.policy, self.side.write(self.policy.banned))

    def agrees(self) -> Finding:
        return at_most(self.gap(), self.options.max_gap)

    def without_head(self) -> Finding:
        """The gap to an engine whose head computes in bfloat16: told, as the reason for the other.

        It stays open until the end, since closing an engine takes down the process group.
        """
        self.rounding = PolicyEngine(self.options, sleep=False, eager=True, float32_head=False)
        return Finding(self.rounding.gap(self.policy, self.rounding.write(self.policy.banned)))

    def close(self) -> None:
        for side in (self.rounding, self.side):
            if side is not None:
                side.engine.close()

    @torch.no_grad()
    def stale(self) -> Finding:
        """The gap once the trainer's weights have moved, over the gap before."""
        before = self.gap()
        torch.manual_seed(1)
        for parameter in self.policy.parameters():
            spread = parameter.to_local().float().std()
            parameter.to_local().add_(NOISE * spread * torch.randn_like(parameter.to_local()))
        return at_least(self.gap() / before, STALE)

    def synced(self) -> Finding:
        sync(self.policy, self.side.engine, everything=True)
        return self.agrees()

    def sleep_and_wake(self) -> Finding:
        """Free memory in each state; asleep, at least the weights' memory more."""
        if self.options.cpu:
            return NOT_ON_CPU
        engine, states = self.side.engine, {"awake": free_gib()}
        engine.sleep()
        states["asleep"] = free_gib()
        for tag in ("weights", "kv_cache"):
            engine.wake(tag)
            states[f"with {tag}"] = free_gib()
        self.awake.append(states["with kv_cache"])
        weights = 2 * sum(p.numel() for p in self.policy.parameters()) / 2**30
        told = ", ".join(f"{name} {free:.1f}" for name, free in states.items())
        freed = states["asleep"] - states["awake"]
        return holds(f"{told} GiB free", freed >= weights, f"frees >= {weights:.1f} GiB")

    def drift(self) -> Finding:
        """What of the memory no wake takes again, or each one more."""
        if self.options.cpu:
            return NOT_ON_CPU
        return at_most(max(self.awake) - min(self.awake), DRIFT_GIB)


def checks(options: Options) -> Iterator[Check]:
    """In this order: what follows needs what came before."""
    made = EngineChecks(options)
    yield "identical captions, same seeds twice", made.seeds
    yield "log-prob gap, nats", made.agrees
    yield "the same with a bfloat16 head", made.without_head
    yield "trainer moved, not synced: gap / gap before", made.stale
    yield "trainer moved and synced: gap", made.synced
    for i in range(TIMES):
        yield f"sleep and wake {i + 1}", made.sleep_and_wake
    yield "drift of free memory awake, GiB", made.drift
    yield "gap after waking", made.agrees
    made.close()


if __name__ == "__main__":
    run_part("engine", checks)
