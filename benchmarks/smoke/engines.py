"""A policy's engine with its prompts, as the parts that start engines share them."""

from __future__ import annotations

import torch
from common import MEDIA, SHAPES, Shape, prompt_of

from caprl_native.config.models import EngineConfig
from caprl_native.policy.model import Policy
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import Prompt, processor_kwargs
from caprl_native.rollout.engine import Engine, EngineSettings, Generated, Sampling
from smoke.findings import Options
from smoke.models import shared_model

SMALL = Shape("image", 32, size=(96, 96))
GIB = 2**30


class PolicyEngine:
    """vLLM on a model directory (default: the shared one), and prompts with images (default: of
    noise)."""

    def __init__(
        self,
        options: Options,
        *,
        path: str = "",
        prompts: list[Prompt] | None = None,
        sleep: bool = True,
        eager: bool = False,
        float32_head: bool = True,
    ) -> None:
        self.path = path or shared_model(options)
        shape, count = (SMALL, 2) if options.cpu else (SHAPES["image"], 4)
        self.prompts = prompts or [prompt_of(self.path, shape, seed) for seed in range(count)]
        self.response = shape.response
        self.engine = Engine(
            EngineSettings(
                EngineConfig(
                    max_model_len=len(self.prompts[0]) + shape.response + 8,
                    max_num_seqs=16,
                    gpu_memory_utilization=0.3,
                    kv_cache_gib=0.25,
                    enforce_eager=eager,
                ),
                path=self.path,
                dtype="bfloat16",
                sleep=sleep,
                float32_head=float32_head,
                mm_processor_kwargs=processor_kwargs(self.path, MEDIA),
                media_per_prompt=1,
            )
        )

    def write(self, banned: list[int], n: int = 4) -> list[Generated]:
        """n captions of each prompt, the same seeds every time."""
        sampling = Sampling(n=n, max_tokens=self.response, banned=tuple(banned))
        seeds = [100 * i for i in range(len(self.prompts))]
        return self.engine.generate([p.for_engine() for p in self.prompts], sampling, seeds)

    @torch.no_grad()
    def gap(self, policy: Policy, written: list[Generated]) -> float:
        """Mean |log p(trainer) - log p(engine)| over all tokens of all captions, nats."""
        gaps = []
        device = next(policy.parameters()).device
        for given, out in zip(self.prompts, written, strict=True):
            if out.prompt_ids != given.ids.tolist():
                raise RuntimeError("the engine's prompt has other tokens than the trainer's")
            tokens = [c.token_ids for c in out.completions]
            batch = collate([PackedRow(given, tokens, list(range(len(tokens))))], policy.positions)
            theirs = torch.tensor([x for c in out.completions for x in c.logprobs])
            gaps.append((policy(batch.to(device)).logprobs.cpu() - theirs).abs())
        return torch.cat(gaps).mean().item()


def tokens(written: list[Generated]) -> list[list[int]]:
    """Of every caption."""
    return [c.token_ids for out in written for c in out.completions]


def identical(one: list[list[int]], other: list[list[int]]) -> float:
    """The share of captions that are the same token by token."""
    same = [a == b for a, b in zip(one, other, strict=True)]
    return sum(same) / len(same)


def free_gib() -> float:
    """Memory of the GPU that nobody holds, torch's own reserve included in what is free."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / GIB
