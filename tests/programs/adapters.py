"""A policy with an adapter trains, is saved, goes on, and is compared with its engine.

Arguments: the model directory, the compute dtype, the tensor-parallel size, a folder, the targets.
One rank alone loads its exports in fresh engines, too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from caprl_native import checkpoint
from caprl_native.base_model import BaseModel
from caprl_native.checkpoint_files import RestrictedReader
from caprl_native.config.lora import LoraConfig
from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import AlgorithmConfig, PolicyConfig
from caprl_native.distributed.errors import RunError
from caprl_native.distributed.world import init_distributed
from caprl_native.export import export
from caprl_native.policy.adapting import probing
from caprl_native.policy.fsdp import full_tensor, load_policy
from caprl_native.policy.learner import Learner
from caprl_native.policy.lora import is_adapter
from caprl_native.policy.optim import build_optimizer
from caprl_native.policy.packing import PackedRow, collate
from caprl_native.policy.prompt import PromptBuilder, processor_kwargs
from caprl_native.rollout.adapter import NUMBER, AdapterRoom, require_support
from caprl_native.rollout.engine import Engine, EngineSettings, Sampling
from caprl_native.rollout.self_check import WeightsDiffer, adapter_room, compare_adapters
from caprl_native.rollout.weight_sync import stream, sync
from caprl_native.testing.samples import MEDIA, group, prompt, responses
from tests.ranks import report

KINDS = ("image", "video", "mixed", "text")


class Side:
    """A policy with its optimizer and learner, the policy its own reference."""

    def __init__(self, config: PolicyConfig, dims: Any) -> None:
        self.config, self.dims = config, dims
        self.policy = load_policy(config, dims, seed=3)
        self.optimizer = build_optimizer(self.policy, config)
        algorithm = AlgorithmConfig(kl={"type": "k3", "weight": 0.1})
        self.learner = Learner(
            self.policy, self.policy, self.optimizer, config, algorithm, 1.0, 64, 10, dims
        )

    def train(self, step: int) -> dict[str, float]:
        """An update on two groups of this rank, of several micro-batches."""
        groups = []
        for i in range(2):
            place = 10 * step + 2 * self.dims.rank + i
            given = prompt(self.config.path, KINDS[place % len(KINDS)], place)
            tokens = responses(self.policy.config, self.policy.banned, 3, place)
            groups.append(group(given, tokens, place))
        return self.learner.update(groups, step)

    def sums(self, *, adapter: bool) -> dict[str, str]:
        """A hash of each whole parameter, of the adapter (with its moments) or of all else."""
        found = {}
        for name, parameter in self.policy.hf.named_parameters():
            if is_adapter(name) == adapter:
                tensors = [parameter.detach(), *self.optimizer.state.get(parameter, {}).values()]
                data = b"".join(full_tensor(t).float().numpy().tobytes() for t in tensors)
                found[name] = hashlib.sha256(data).hexdigest()
        return found


def main(path: str, dtype: str, tensor_parallel: str, folder: str, *targets: str) -> None:
    dims = init_distributed(int(tensor_parallel))
    lora = LoraConfig(rank=2, alpha=3.0, targets=list(targets))
    config = PolicyConfig(
        path=path, dtype=dtype, lr=1e-2, weight_decay=0.01, lora=lora, micro_batch_tokens=120
    )
    side = Side(config, dims)
    root = Path(folder, "checkpoints")
    found: dict[str, Any] = training(side, root)
    again = Side(config, dims)
    state = checkpoint.load(root, 2, again.policy, again.optimizer)
    BaseModel(path, lora).load_state_dict(state["base"])
    again.train(3)
    found["resumed alike"] = again.sums(adapter=True) == side.sums(adapter=True)
    if dims.world > 1:
        found["norms"] = norms(config, dims)
    engine = start(side, path, adapter_room(side.policy))
    found |= beside_an_engine(side, engine)
    engines = [engine]
    if dims.world == 1:
        found["exports"] = exports(side, Path(folder), engines)
        found["refused"] = [
            refused(Path(folder), "LlavaOnevisionForConditionalGeneration", tower=False),
            refused(Path(folder), "Qwen2_5OmniForConditionalGeneration", tower=True),
        ]
    report(found)
    for engine in engines:  # which ends the process group
        engine.close()
    if dist.is_initialized():
        dist.destroy_process_group()


def norms(config: PolicyConfig, dims: Any) -> dict[str, list[float]]:
    """Loss and gradient norm of a first update, by how it is cut and where it is computed."""
    ways: dict[str, dict[str, Any]] = {
        "as above": {},
        "in one micro-batch": {"micro_batch_tokens": 4096},
        "recomputing nothing": {"activation_checkpointing": False},
        "replicated": {"replicas": 2},
        "reduced once": {"reduce_once": True, "optimizer_dtype": "bfloat16"},
    }
    found = {}
    for name, changes in ways.items():
        metrics = Side(config.replace(**changes), dims).train(1)
        found[name] = [metrics["policy/loss"], metrics["policy/grad_norm"]]
    return found


def training(side: Side, root: Path) -> dict[str, Any]:
    """Three updates, a checkpoint after the second; what moved and what did not."""
    base, adapter = side.sums(adapter=False), side.sums(adapter=True)
    metrics = [side.train(1), side.train(2)]
    state = {"base": BaseModel(side.config.path, side.config.lora).state_dict()}
    checkpoint.save(root, 2, side.policy, side.optimizer, state, keep=1)
    side.train(3)
    shards = RestrictedReader(checkpoint.directory(root, 2) / "shards")
    held: dict[str, Any] = shards.read_metadata().state_dict_metadata
    tensors = {name: value.size.numel() for name, value in held.items() if hasattr(value, "size")}
    moved = side.sums(adapter=True)
    return {
        "kl": [m["policy/kl"] for m in metrics],
        "base is still": base == side.sums(adapter=False),
        "still": sorted(name for name in moved if moved[name] == adapter[name]),
        "adapters": sorted(moved),
        "state": len(side.optimizer.state),
        "with gradients": [n for n, p in side.policy.hf.named_parameters() if p.requires_grad],
        "saved": sorted(n.removeprefix("model.hf.") for n in tensors if n.startswith("model.")),
        "saved numbers": sum(count for count in tensors.values() if count > 1),
        "adapter numbers": sum(p.numel() for p in side.policy.parameters() if p.requires_grad),
    }


def beside_an_engine(side: Side, engine: Engine) -> dict[str, Any]:
    """Log-probs of both after a sync, and what becomes of an engine that does not apply it."""
    policy, config = side.policy, side.config
    prepare = PromptBuilder(config.path, MEDIA)
    found: dict[str, Any] = {
        "probe": compare_adapters(policy, engine, prepare, alarm=0.02, stop=0.02)
    }
    before = side.sums(adapter=True)
    with probing(policy):  # far from zero, unlike after a few updates
        found["bytes"] = sync(policy, engine)
        found["gaps"], outputs = gaps(side, engine)
        found["whole bytes"] = sum(t.nbytes for _, t in stream(policy, torch.float32))
        with policy.adapter.off():
            found["without"] = max(scored(side, kind, out) for kind, out in outputs)
    found["probe leaves it"] = before == side.sums(adapter=True)
    sync(policy, engine)
    found["trained"], _ = gaps(side, engine)
    original = engine.load_adapter
    engine.load_adapter = lambda *_: drop(engine)  # type: ignore[method-assign]
    try:
        compare_adapters(policy, engine, prepare, alarm=0.02)
        found["ignored"] = "no error"
    except WeightsDiffer as error:
        found["ignored"] = str(error)
    engine.load_adapter = original  # type: ignore[method-assign]
    return found


def start(side: Side, path: str, room: AdapterRoom | None) -> Engine:
    return Engine(
        EngineSettings(
            EngineConfig(
                max_model_len=1024, max_num_seqs=32, kv_cache_gib=0.05, gpu_memory_utilization=0.3
            ),
            path=path,
            dtype=side.config.dtype,
            tensor_parallel_size=side.dims.tp_size,
            float32_head=True,
            mm_processor_kwargs=processor_kwargs(side.config.path, MEDIA),
            media_per_prompt=2,
            adapter=room,
        )
    )


def exports(side: Side, folder: Path, engines: list[Engine]) -> dict[str, Any]:
    """Both forms, read from disk by engines that never saw the policy: how far they are off."""
    from vllm.lora.request import LoRARequest

    policy, config = side.policy, side.config
    found: dict[str, Any] = {}
    with probing(policy):
        adapter = policy.adapter
        assert adapter is not None
        for form in ("merged", "adapter"):
            adapter.config = adapter.config.replace(export=form)
            export(policy, config.path, folder / form, config.dtype)
        engines.append(start(side, str(folder / "merged"), None))
        found["merged"], _ = gaps(side, engines[-1])
        engines.append(start(side, config.path, adapter_room(policy)))
        engines[-1]._lora_request = LoRARequest("from disk", 7, str(folder / "adapter"))
        found["adapter"], _ = gaps(side, engines[-1])
    found["files"] = sorted(f.name for f in (folder / "adapter").iterdir())
    return found


def refused(folder: Path, architecture: str, *, tower: bool) -> str:
    """What is said to a model of this kind."""
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    try:
        require_support(str(folder), tower=tower)
    except RunError as error:
        return str(error)
    return "no error"


def drop(engine: Engine) -> None:
    """An engine that takes an adapter and does not apply it."""
    engine.llm.collective_rpc(lambda worker: zero(worker))
    engine.reset_caches()


def zero(worker: Any) -> None:
    layers = worker.model_runner.lora_manager._adapter_manager
    for module in layers.modules.values():
        module.reset_lora(layers.lora_index_to_id.index(NUMBER))


def gaps(side: Side, engine: Engine) -> tuple[dict[str, float], list[Any]]:
    """The mean |log p(trainer) - log p(engine)| by kind of prompt, and what was written."""
    data_rank = side.dims.data_rank
    prompts = [prompt(side.config.path, k, 10 * data_rank + i) for i, k in enumerate(KINDS)]
    sampling = Sampling(n=3, max_tokens=16, banned=tuple(side.policy.banned))
    seeds = range(len(prompts))
    written = engine.generate([p.for_engine() for p in prompts], sampling, list(seeds))
    outputs = list(zip(KINDS, zip(prompts, written, strict=True), strict=True))
    return {kind: scored(side, kind, out) for kind, out in outputs}, outputs


@torch.no_grad()
def scored(side: Side, kind: str, out: Any) -> float:
    given, written = out
    tokens = [c.token_ids for c in written.completions]
    row = PackedRow(given, tokens, list(range(len(tokens))))
    ours = side.policy(collate([row], side.policy.positions)).logprobs
    theirs = torch.tensor([p for c in written.completions for p in c.logprobs])
    assert written.prompt_ids == given.ids.tolist(), kind
    return (ours - theirs).abs().mean().item()


if __name__ == "__main__":
    main(*sys.argv[1:])
