"""Do trainer and engine hold the same model? They score the same tokens, and are compared."""

from __future__ import annotations

import logging

import numpy as np
import torch
from PIL import Image

from caprl_native.config.schema import Config
from caprl_native.data.media import DecodedImage
from caprl_native.policy.adapting import probing
from caprl_native.policy.model import Policy
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import Prompt, PromptBuilder, processor_kwargs
from caprl_native.rollout.adapter import AdapterRoom
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.rollout.weight_sync import sync
from caprl_native.types import MediaRef, Sample

log = logging.getLogger(__name__)

PROBE_TOKENS = 64  # the mean of a few tokens goes far up and down in bfloat16
STOP = 0.3  # nats; wrong weights are far above it, bfloat16 far below


class WeightsDiffer(RuntimeError):
    """Trainer and engine give the same tokens different probabilities, or have other tokens."""


def policy_engine(config: Config, policy: Policy) -> Engine:
    """The engine that writes the policy's captions."""
    rollout = config.rollout
    return Engine(
        EngineSettings(
            rollout,
            path=config.policy.path,
            dtype=config.policy.dtype,
            tensor_parallel_size=rollout.tensor_parallel_size,
            sleep=rollout.sleep,
            float32_head=True,
            seed=config.run.seed,
            mm_processor_kwargs=processor_kwargs(config.policy.path, config.media),
            media_per_prompt=config.media.max_per_prompt,
            adapter=adapter_room(policy),
        )
    )


def adapter_room(policy: Policy) -> AdapterRoom | None:
    """The room that an engine needs for the policy's adapter, where it is sent one."""
    if policy.adapter is None or policy.adapter.config.sync == "merged":
        return None
    names = policy.adapter.layers
    parts = {policy.family.part_of(f"{name}.weight") for name in names}
    return AdapterRoom(policy.adapter.config.rank, tuple(names), parts != {"language"})


def probe(prepare: PromptBuilder) -> Prompt:
    """A prompt with a picture of fixed noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    content = [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]
    sample = Sample("probe", (MediaRef("image", "probe"),), ({"role": "user", "content": content},))
    return prepare(sample, [DecodedImage(Image.fromarray(pixels))])


def compare(
    policy: Policy, engine: Engine, prepare: PromptBuilder, *, alarm: float, stop: float = STOP
) -> float:
    """The mean |log p(trainer) - log p(engine)| over `PROBE_TOKENS` tokens (a collective).

    Raises:
        WeightsDiffer: as `judge` does.
    """
    gap = measure(policy, engine, prepare)
    judge(gap, alarm, stop)
    return gap


def judge(gap: float, alarm: float, stop: float = STOP) -> None:
    """Warns of a gap above `alarm` nats.

    Raises:
        WeightsDiffer: it is above `stop` and above `alarm`, or no number.
    """
    if gap <= alarm:
        return
    if gap <= stop:
        log.warning(
            "trainer and engine differ by %.4f nats per token on a probe image, more than "
            "algorithm.mismatch_alarm = %s; the run goes on, and stops from %s on",
            gap,
            alarm,
            stop,
        )
        return
    raise WeightsDiffer(
        f"trainer and engine differ by {gap:.4f} nats per token on a probe image (limit "
        f"{max(stop, alarm)}): the engine does not hold the trainer's weights, or computes another "
        "model"
    )


@torch.no_grad()
def measure(policy: Policy, engine: Engine, prepare: PromptBuilder) -> float:
    """The gap on the probe. A text that ends goes on, so that there are `PROBE_TOKENS` tokens.

    Raises:
        WeightsDiffer: the engine was prompted with other tokens.
    """
    return _compared(policy, engine, prepare)[0]


def _compared(policy: Policy, engine: Engine, prepare: PromptBuilder) -> tuple[float, float]:
    """The gap, and how far an adapter moves the trainer's log-probs (0 without one)."""
    prompt = probe(prepare)
    sampling = Sampling(max_tokens=PROBE_TOKENS, banned=tuple(policy.banned), ignore_end=True)
    (out,) = engine.generate([prompt.for_engine()], sampling, seeds=[0])
    if out.prompt_ids != prompt.ids.tolist():
        raise WeightsDiffer(
            f"the probe image makes a prompt of {len(out.prompt_ids)} tokens in the engine and of "
            f"{len(prompt)} in the trainer, or others: the two prepare media differently"
        )
    written = out.completions[0]
    device = next(policy.parameters()).device
    batch = collate([PackedRow(prompt, [written.token_ids], [0])], policy.positions).to(device)
    logprobs = policy(batch).logprobs.cpu()
    gap = (logprobs - torch.tensor(written.logprobs)).abs().mean().item()
    if policy.adapter is None:
        return gap, 0.0
    with policy.adapter.off():
        return gap, (policy(batch).logprobs.cpu() - logprobs).abs().mean().item()


def first_sync(policy: Policy, engine: Engine, prepare: PromptBuilder, alarm: float) -> float:
    """Gives the engine the weights at a run's start, and compares the two (a collective); the gap.

    Raises:
        WeightsDiffer: as `compare` and `compare_adapters` do.
    """
    if policy.adapter is not None:
        compare_adapters(policy, engine, prepare, alarm=alarm)
    sync(policy, engine, everything=True)
    return compare(policy, engine, prepare, alarm=alarm)


@torch.no_grad()
def compare_adapters(
    policy: Policy, engine: Engine, prepare: PromptBuilder, *, alarm: float, stop: float = STOP
) -> float:
    """`compare` with noise for an adapter (see `probing`), which the engine then no longer has: it
    is to be given the policy's own.

    Raises:
        WeightsDiffer: as `judge` does; or the engine is as far from the trainer as the trainer
            would be without its adapter.
    """
    with probing(policy):
        sync(policy, engine, everything=True)
        gap, moved = _compared(policy, engine, prepare)
    if gap > moved / 2:
        raise WeightsDiffer(
            f"with a trial adapter trainer and engine differ by {gap:.4f} nats per token on a "
            f"probe image, and the adapter itself makes {moved:.4f}: the engine does not apply it"
        )
    judge(gap, alarm, stop)
    return gap
