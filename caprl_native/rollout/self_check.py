"""Do trainer and engine hold the same model? They score the same tokens, and are compared."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from caprl_native.config.schema import Config
from caprl_native.data.media import DecodedImage
from caprl_native.policy.model import Policy
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import Prompt, PromptBuilder, processor_kwargs
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.types import MediaRef, Sample

PROBE_TOKENS = 16


class WeightsDiffer(RuntimeError):
    """Trainer and engine give the same tokens different probabilities."""


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
            seed=config.run.seed,
            mm_processor_kwargs=processor_kwargs(config.policy.path, config.media),
            media_per_prompt=config.media.max_per_prompt,
        )
    )


def probe(prepare: PromptBuilder) -> Prompt:
    """A prompt with a picture of fixed noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    content = [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]
    sample = Sample("probe", (MediaRef("image", "probe"),), ({"role": "user", "content": content},))
    return prepare(sample, [DecodedImage(Image.fromarray(pixels))])


@torch.no_grad()
def compare(policy: Policy, engine: Engine, prepare: PromptBuilder, limit: float) -> float:
    """The mean |log p(trainer) - log p(engine)| over a few sampled tokens (a collective).

    Raises:
        WeightsDiffer: it is above `limit` nats.
    """
    prompt = probe(prepare)
    sampling = Sampling(max_tokens=PROBE_TOKENS, banned=tuple(policy.banned))
    (out,) = engine.generate([prompt.for_engine()], sampling, seeds=[0])
    written = out.completions[0]
    device = next(policy.parameters()).device
    batch = collate([PackedRow(prompt, [written.token_ids], [0])], policy.positions).to(device)
    logprobs = policy(batch).logprobs
    gap = (logprobs.cpu() - torch.tensor(written.logprobs)).abs().mean().item()
    if not gap <= limit:
        raise WeightsDiffer(
            f"trainer and engine differ by {gap:.4f} nats per token on a probe image "
            f"(limit {limit}): the engine does not hold the trainer's weights, or computes "
            "another model"
        )
    return gap
