"""What a certificate is about: transformers' answers, the trainer's policy, the engine, the cases.

transformers' model is asked first and dropped: beside the engine stands one copy, the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caprl_native.certificate.cases import Case, cases
from caprl_native.certificate.reference import Reference, reference
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import PolicyConfig
from caprl_native.distributed.world import ParallelDims
from caprl_native.export import export
from caprl_native.policy.families import Family, Prompt, family_of
from caprl_native.policy.fsdp import load_policy
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.rollout.engine import Engine, EngineSettings, Generated, Sampling
from caprl_native.rollout.weight_sync import sync

RESPONSES, TOKENS = 3, 12  # that trainer and transformers score, of random tokens
WRITTEN, LENGTH = 2, 24  # that the engine writes and the trainer scores
MOVED = 0.3  # standard deviation of what weights are moved by, of their own root mean square
LEAST = 0.01  # at least: some are zero


@dataclass
class Subject:
    """One model directory, in trainer and engine."""

    path: str
    media: MediaConfig
    cases: list[Case]
    prompts: dict[str, Prompt]  # by the case's name
    responses: list[list[int]]
    references: dict[str, Reference | Exception]
    policy: Policy
    engine: Engine
    config: EngineConfig
    written: dict[str, Generated] = field(default_factory=dict)  # before weights moved
    moves: int = 0
    exported: bool = False  # and the engine is one of the export

    @classmethod
    def load(
        cls,
        path: str,
        files: Sequence[str],
        media: MediaConfig,
        engine: EngineConfig,
        dims: ParallelDims,
        dtype: str = "float32",
    ) -> Subject:
        """Reads the directory and asks transformers.

        Raises:
            ModelError: no family knows the directory, or it lacks something.
        """
        family = family_of(path)
        made = cases(files, media, mixes=family.mixes_media)
        builder, prompts = PromptBuilder(path, media), built(path, media, made)
        hf: Any = load_hf(path).eval()
        tokens = _random_tokens(family, hf.config)
        references = {c.name: _asked(hf, family, builder, c, media, tokens) for c in made}
        del hf
        policy = load_policy(PolicyConfig(path=path, dtype=dtype), dims)
        most = max(len(case.decoded) for case in made)  # an engine makes room for what it may get
        media = media.model_copy(update={"max_per_prompt": min(most, media.max_per_prompt)})
        started = start_engine(path, engine, family, media, dtype)
        return cls(path, media, made, prompts, tokens, references, policy, started, engine)

    def score(self, case: Case, tokens: list[list[int]], *, ban: bool = True) -> Tensor:
        """The trainer's log-probs of responses to a case, one after the other, nats."""
        row = PackedRow(self.prompts[case.name], list(tokens), list(range(len(tokens))))
        device = next(self.policy.parameters()).device
        batch = collate([row], self.policy.positions).to(device)
        with torch.no_grad():
            return self.policy(batch, ban=ban).logprobs.cpu()

    def write(self, case: Case) -> Generated:
        """What the engine writes to a case, from a fixed seed."""
        sampling = Sampling(
            n=WRITTEN, max_tokens=LENGTH, banned=tuple(self.policy.banned), ignore_end=True
        )
        (out,) = self.engine.generate([self.prompts[case.name].for_engine()], sampling, seeds=[0])
        return out

    @property
    def moved(self) -> bool:
        """Whether the trainer's weights are others than the directory's."""
        return self.moves > 0

    def move(self) -> None:
        """Changes every weight of the trainer; the engine keeps the old ones."""
        generator = torch.Generator().manual_seed(self.moves)
        self.moves += 1
        with torch.no_grad():
            for parameter in self.policy.hf.parameters():
                local = parameter.to_local()
                noise = torch.randn(local.shape, generator=generator).to(local.device)
                size = local.float().pow(2).mean().sqrt().clamp(min=LEAST / MOVED)
                local.add_(MOVED * size * noise)

    def sync(self) -> None:
        """Sends the trainer's weights to the engine."""
        sync(self.policy, self.engine, everything=True)

    def export(self, target: Path) -> None:
        """Writes the trainer's weights as a model directory."""
        export(self.policy, self.path, target, self.engine.settings.dtype)

    def restart(self, path: Path) -> None:
        """Closes the engine, and starts one from another directory of the same model."""
        self.engine.close()
        settings = self.engine.settings
        self.engine = start_engine(
            str(path), self.config, self.policy.family, self.media, settings.dtype
        )

    def close(self) -> None:
        """Stops the engine; must come before the process group is destroyed."""
        self.engine.close()


def built(path: str, media: MediaConfig, of: Sequence[Case]) -> dict[str, Prompt]:
    """The prompts of these cases by their names, as a run would make them."""
    builder = PromptBuilder(path, media)
    return {case.name: builder(case.sample, list(case.decoded)) for case in of}


def start_engine(
    path: str, config: EngineConfig, family: Family, media: MediaConfig, dtype: str
) -> Engine:
    """The engine of a directory, as a run would start it."""
    return Engine(
        EngineSettings(
            config,
            path=path,
            dtype=dtype,
            float32_head=True,
            mm_processor_kwargs=family.processor_kwargs(media),
            media_per_prompt=media.max_per_prompt,
        )
    )


def _random_tokens(family: Family, config: Any) -> list[list[int]]:
    rng = np.random.default_rng(0)
    banned = set(family.banned_token_ids(config))
    legal = sorted(set(range(config.get_text_config().vocab_size)) - banned)
    return [rng.choice(legal, TOKENS - i).tolist() for i in range(RESPONSES)]


def _asked(
    hf: Any,
    family: Family,
    builder: PromptBuilder,
    case: Case,
    media: MediaConfig,
    tokens: list[list[int]],
) -> Reference | Exception:
    """transformers' answers, or what it raised: the checks that need them then fail."""
    text = builder.for_engine(case.sample, list(case.decoded))["prompt"]
    processor = family.load_processor(builder.path)
    try:
        return reference(hf, family, processor, text, case, media, tokens)
    except Exception as error:
        return error
