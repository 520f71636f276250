"""What one GPU holds at the two peaks of a step: while captions are written, and while the policy
trains. Sizes in bytes, by what they are for; nothing here looks at a file or a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from caprl_native.config.models import EngineConfig
from caprl_native.config.schema import Config, RolloutConfig
from caprl_native.distributed.launcher import replicas
from caprl_native.policy.activation_size import BYTES
from caprl_native.policy.model_size import ModelSize

GIB = 2**30

# Assumptions that no file tells; on a CPU they are left out.
CONTEXT = 1.0 * GIB  # CUDA's context, kernels, NCCL's buffers
ENGINE_WORK = 3.0 * GIB  # of an engine's share: activations, the vision tower's pass, CUDA graphs
ASLEEP = 1.5 * GIB  # what a sleeping engine keeps: CUDA graphs, workspaces, buffers

# GiB that CUDA reports of common GPUs, less than their names say.
GPUS = {
    "24 GB (L4, A10G)": 22.0,
    "48 GB (L40S, A6000)": 44.4,
    "80 GB (A100, H100)": 79.1,
    "141 GB (H200)": 139.7,
    "180 GB (B200)": 178.3,
}


@dataclass(frozen=True)
class Peaks:
    """Bytes at both peaks by purpose; what is in both stands in both."""

    rollout: dict[str, float]
    training: dict[str, float]

    def rows(self) -> Iterator[tuple[str, list[float | None]]]:
        """Each purpose with its bytes at the two peaks, None where it takes none."""
        for name in dict.fromkeys([*self.rollout, *self.training]):
            yield name, [peak.get(name) for peak in (self.rollout, self.training)]

    @property
    def totals(self) -> tuple[float, float]:
        """Bytes of the rollout peak and of the training peak."""
        return sum(self.rollout.values()), sum(self.training.values())


@dataclass(frozen=True)
class Needs:
    """What a run's memory follows from. `trainable`: parameters that are not frozen;
    `activations`: bytes of one micro-batch at its peak, by purpose; `readers`: by the key of their
    table, None where none is in process."""

    config: Config
    policy: ModelSize
    trainable: int
    activations: Mapping[str, float]
    readers: Mapping[str, ModelSize | None]
    world: int

    def peaks(self, memory: float) -> Peaks:
        """Of a rank that has a GPU with `memory` bytes, 0: on a CPU, where no engine sleeps."""
        config = self.config
        context = {"CUDA context": CONTEXT} if memory else {}
        kept = context | self.kept(memory)
        engine = self.engine(memory)
        asleep = {"sleeping engine": ASLEEP} if config.rollout.sleep and memory else engine
        return Peaks(
            rollout=kept | engine | self.reading(memory) | {"weight sync": self.staging()},
            training=kept | self.passing() | asleep | self.reading(memory, training=True),
        )

    @property
    def ranks(self) -> int:
        """How many ranks share one copy of the training state."""
        return self.world // replicas(self.config.policy.replicas, self.world)

    @property
    def moment(self) -> float:
        """One of AdamW's two moments of this rank's shard."""
        return BYTES[self.config.policy.optimizer_dtype] * self.trainable / self.ranks

    def kept(self, memory: float) -> dict[str, float]:
        """What the trainer keeps from step to step: shards of float32 master weights, of AdamW's
        two moments, and of a reference policy."""
        kept = self.weights()
        if not (self.config.policy.optimizer_offload and memory):
            kept["Adam"] = 2 * self.moment
        kl, policy = self.config.algorithm.kl, self.config.policy
        shared = policy.lora.is_on and kl.reference in ("", policy.path)
        if kl.weight > 0 and not shared:
            kept["reference policy"] = 4 * self.policy.total / self.ranks
        return kept

    def weights(self) -> dict[str, float]:
        """This rank's shards of the policy; what an adapter leaves as it is, in compute
        precision."""
        policy = self.config.policy
        if not policy.lora.is_on:
            return {"master weights": 4 * self.policy.total / self.ranks}
        return {
            "frozen weights": BYTES[policy.dtype] * self.policy.total / self.ranks,
            "adapter": 4 * self.trainable / self.ranks,
        }

    def passing(self) -> dict[str, float]:
        """What an update needs beside it. Gradients are float32 shards. Gathered at once, in
        compute precision, are the root unit and two blocks (the next comes while one computes).
        The largest unit's gradient is whole in compute precision, and in float32 to be summed.
        Moments that are stored otherwise are fetched in float32, a parameter's at a time."""
        root, block = self.policy.units()
        policy = self.config.policy
        compute = BYTES[policy.dtype]
        fetched = {}
        if policy.optimizer_offload or policy.optimizer_dtype != "float32":
            largest = min(max(self.policy.parameters.values()), self.trainable)
            fetched = {"fetched moments": 8 * largest / self.ranks}
        return fetched | {
            "gradients": 4 * self.trainable / self.ranks,
            **({"whole gradients": 4.0 * self.trainable} if policy.reduce_once else {}),
            "gathered units": compute * (root + (2 if self.ranks > 1 else 1) * block),
            "gradient of a unit": (compute + 4.0) * min(max(root, block), self.trainable),
            **self.activations,
        }

    def staging(self) -> float:
        """The largest tensor whole, in compute precision, and its copy on the engine's side; of an
        adapter all tensors."""
        if self.config.policy.lora.is_on:
            return 2.0 * BYTES[self.config.policy.dtype] * self.trainable
        return 2.0 * BYTES[self.config.policy.dtype] * max(self.policy.parameters.values())

    def engine(self, memory: float) -> dict[str, float]:
        """The policy's engine, as large as its share of the GPU."""
        rollout, lora = self.config.rollout, self.config.policy.lora
        numbers = self.policy.total + (self.trainable if lora.is_on else 0)
        weights = BYTES[self.config.policy.dtype] * numbers
        parts = _engine(rollout, weights / rollout.tensor_parallel_size, memory)
        return {f"engine {name}": size for name, size in parts.items()}

    def reading(self, memory: float, *, training: bool = False) -> dict[str, float]:
        """The readers' engines, awake or while the policy trains; empty where none is in process.

        A tensor-parallel group shares them, too.
        """
        parts: dict[str, float] = {}
        configs = self.config.reward.in_process
        for key, size in self.readers.items():
            if size is None:
                continue
            config, name = configs[key], key.removeprefix("reward.").replace("_", " ")
            weights = BYTES[config.dtype] * size.total / self.config.rollout.tensor_parallel_size
            if training and config.sleep and memory:
                parts[f"sleeping {name}"] = ASLEEP
            else:
                found = _engine(config, weights, memory)
                parts |= {f"{name} {part}": value for part, value in found.items()}
        return parts

    @property
    def bytes_per_token(self) -> float:
        """What a token takes of the engine's KV cache, on each rank; a head is never split."""
        shares = min(self.config.rollout.tensor_parallel_size, self.policy.kv_heads)
        return BYTES[self.config.policy.dtype] * self.policy.kv_per_token / shares

    def cached_tokens(self, memory: float) -> int:
        """How many tokens the engine's KV cache holds."""
        return int(self.engine(memory)["engine KV cache"] / self.bytes_per_token)

    def verdicts(self, memory: float) -> list[str]:
        """Of both peaks: whether a GPU of `memory` bytes has room for them, and by how much."""
        told = []
        for total in self.peaks(memory).totals:
            room = (memory - total) / GIB
            told.append(f"fits, {room:.1f} left" if room >= 0 else f"NO, {-room:.1f} short")
        if self.cached_tokens(memory) < self.config.rollout.max_model_len:
            told[0] = "NO, KV cache too small"
        return told


def _engine(
    config: EngineConfig | RolloutConfig, weights: float, memory: float
) -> dict[str, float]:
    """Weights, working memory and cache: what they leave of the engine's share of a GPU; on a CPU
    the cache is as large as the config says."""
    if not memory:
        return {"weights": weights, "KV cache": config.kv_cache_gib * GIB}
    cache = max(0.0, config.gpu_memory_utilization * memory - weights - ENGINE_WORK)
    return {"weights": weights, "working memory": ENGINE_WORK, "KV cache": cache}


def table(needs: Needs, memory: float, row: Callable[[str, str], str]) -> list[str]:
    """Both peaks in GiB, part by part; `row` lays out a name and a text."""
    peaks = needs.peaks(memory)
    lines = [row("", f"{'rollout':>8}{'training':>10}")]
    lines += [row(name, _columns(sizes)) for name, sizes in peaks.rows()]
    of = f" of {memory / GIB:.1f}" if memory else ""
    lines.append(row("sum", _columns(peaks.totals) + of))
    if memory:
        lines.append(row("", "; ".join(needs.verdicts(memory))))
    lines.append(row("KV cache", _cache(needs, memory)))
    if needs.cached_tokens(memory) < needs.config.rollout.max_model_len:
        lines.append(row("", "TOO SMALL: rollout.max_model_len tokens must fit"))
    return lines


def _columns(sizes: Iterator[float | None] | tuple[float, ...] | list[float | None]) -> str:
    cells = ["" if size is None else f"{size / GIB:.3f}" for size in sizes]
    return f"{cells[0]:>8}{cells[1]:>10}".rstrip()


def _cache(needs: Needs, memory: float) -> str:
    fits, longest = needs.cached_tokens(memory), needs.config.rollout.max_model_len
    text = f"{needs.bytes_per_token:,.0f} bytes per token and rank, {fits:,} tokens fit"
    return f"{text} ({fits / longest:.1f} longest sequences)"


def by_gpu(needs: Needs, row: Callable[[str, str], str]) -> list[str]:
    """A line for each common GPU: whether both peaks fit. The engines' shares grow with the GPU."""
    lines = [row("on GPUs of", f"{'rollout':<24}training")]
    for name, gib in GPUS.items():
        rollout, training = needs.verdicts(gib * GIB)
        lines.append(row(name, f"{rollout:<24}{training}"))
    return lines
