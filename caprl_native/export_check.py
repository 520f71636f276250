"""Is a directory the whole model of a run, which can go on from it? On a CPU, without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from caprl_native.config.media import MediaConfig
from caprl_native.policy.families import family_of
from caprl_native.policy.model import Policy, load_hf
from caprl_native.policy.model_check import ModelError, read_config
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import PromptBuilder
from caprl_native.rollout.self_check import probe


@torch.no_grad()
def check_export(path: Path, source: str, media: MediaConfig) -> None:
    """Raises ModelError unless `path` holds the weights of a model like `source`, and scores a
    prompt with a picture by finite numbers."""
    ours, theirs = read_config(path), read_config(Path(source))
    if ours.get("model_type") != theirs.get("model_type"):
        raise ModelError(
            f"its model_type is {ours.get('model_type')!r}, that of {source} is "
            f"{theirs.get('model_type')!r}"
        )
    hf = load_hf(path)  # which refuses tensors that are missing, unknown or of another shape
    empty: Any = load_hf(source, empty=True)
    empty.tie_weights()
    found, wanted = (sum(p.numel() for p in m.parameters()) for m in (hf, empty))
    if found != wanted:
        raise ModelError(f"it has {found:,} weights, the model of {source} has {wanted:,}")
    policy = Policy(hf, family_of(path))
    prompt = probe(PromptBuilder(str(path), media))
    row = PackedRow(prompt, [prompt.ids[prompt.token_types == 0][-8:].tolist()], [0])
    logprobs = policy(collate([row], policy.positions)).logprobs
    if not logprobs.isfinite().all():
        raise ModelError("the log-probs of a probe are not finite")
