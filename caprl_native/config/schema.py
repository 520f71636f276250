"""Every setting of a run: one model per TOML table, each field with its bounds and its meaning.

How files, overrides and errors are handled stands in `load.py`, which settings go together in
`rules.py`. The numbers here are the defaults, and `train_configs/` holds the recipes.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from caprl_native.algorithm.aggregation import Aggregation
from caprl_native.algorithm.kl_options import KlOptions
from caprl_native.algorithm.registries import ADVANTAGES, CORRECTIONS, KL, LOSSES
from caprl_native.bounds import Must, Share, UserPath
from caprl_native.config.alarms import AlarmsConfig
from caprl_native.config.data import DataConfig, SftDataConfig, SftEvalConfig
from caprl_native.config.fields import Lists, Named, OneOf, Table
from caprl_native.config.flat import FlatConfig
from caprl_native.config.lora import PARTS, LoraConfig
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import Dtype, EngineConfig, SamplingConfig
from caprl_native.config.moved import MOVED
from caprl_native.config.optimizer import OptimizerStateConfig
from caprl_native.config.reward import RewardConfig
from caprl_native.registry import Options, load_plugin

# Defaults of tables with a type, as a file would give them; they become options when validated.
GRPO: Any = {"type": "grpo"}
PPO: Any = {"type": "ppo"}
K3: Any = {"type": "k3"}
TIS: Any = {"tis": {"type": "tis", "level": "token", "cap": 2.0}}


def _can_be_a_folders(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and len(os.fsencode(name)) <= 200


def _are_decay_rates(betas: list[float]) -> bool:
    return len(betas) == 2 and all(0 <= beta < 1 for beta in betas)


def _is_rate(lr: float) -> bool:
    return lr == -1 or 0 <= lr < math.inf


def _are_parts(names: list[str]) -> bool:
    return set(names) <= set(PARTS) and len(set(names)) == len(names)


def _are_backends(names: list[str]) -> bool:
    return set(names) <= {"wandb", "tensorboard"} and len(set(names)) == len(names)


class RunConfig(Table):
    name: Annotated[
        str, Must(_can_be_a_folders, "a name that can be a folder's (no slash, 1 to 200 bytes)")
    ] = Field("run", description="Name of the run; shown in logs and in Weights & Biases.")
    dir: UserPath = Field(
        "", description="Where everything of the run is written; empty: outputs/<name>."
    )
    seed: int = Field(
        0, ge=0, description="Seed of data order, sampling, question draws and initialisation."
    )
    epochs: int = Field(3, ge=0, description="Passes over the training files.")
    steps: int = Field(
        0, ge=0, description="Stop after this many steps; 0: as many as the epochs give."
    )
    save_every: int = Field(
        50,
        ge=0,
        description="Checkpoint every this many steps, and at the end; 0: only at the end.",
    )
    keep: int = Field(3, ge=0, description="How many of the newest checkpoints are kept; 0: all.")
    export: bool = Field(True, description="Write a Hugging Face model directory at the end.")
    export_every_save: bool = Field(
        True, description="With run.export: one in each checkpoint, too, as step_N/hf."
    )
    keep_exports: int = Field(
        -1,
        ge=-1,
        description="How many of the newest exports in checkpoints are kept; 0: all; -1: those "
        "of the checkpoints that are kept.",
    )
    resume: Annotated[
        str,
        Must(
            lambda step: step in ("", "latest") or step.isdecimal(),
            'empty, "latest" or a step number in quotes',
        ),
    ] = Field(
        "",
        description='Continue from a checkpoint: "latest", or a step number; empty: start over.',
    )
    overwrite: bool = Field(
        False,
        description="Start over in a folder that holds a run; its checkpoints, metrics and export "
        "are put aside as *.abandoned.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Torch threads of each rank on a CPU; 0: the cores divided by the ranks.",
    )
    shuffle_rewards: bool = Field(
        False,
        description="Control experiment: permute the rewards over the whole batch: nothing can be "
        "learnt.",
    )

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.dir or f"outputs/{self.name}")


class PolicyConfig(OptimizerStateConfig):
    path: Annotated[
        UserPath, Lists("Families, by model_type", "caprl_native.policy.families:FAMILIES")
    ] = Field("", description="Hugging Face directory of the captioner to train.")
    dtype: Dtype = Field("bfloat16", description="Compute precision; master weights are float32.")
    lr: float = Field(1e-6, ge=0, description="Peak learning rate of AdamW.")
    lr_vision: Annotated[float, Must(_is_rate, "-1, or a rate of 0 or more")] = Field(
        -1.0, description="That of the vision tower, its projector aside; -1: policy.lr."
    )
    lr_projector: Annotated[float, Must(_is_rate, "-1, or a rate of 0 or more")] = Field(
        -1.0, description="That of the projector; -1: policy.lr."
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="Learning rate after the warm-up."
    )
    warmup_steps: int = Field(
        0, ge=0, description="Optimizer steps of linear warm-up; the first has peak / warmup_steps."
    )
    warmup_share: Share = Field(
        0.0, description="In place of warmup_steps: this share of the run's optimizer steps."
    )
    schedule_steps: int = Field(
        0,
        ge=0,
        description="Optimizer steps, warm-up included, over which a decaying schedule reaches its "
        "end; a longer run stays there. 0: as many as the run has.",
    )
    min_lr_ratio: Share = Field(
        0.0, description="The decaying schedules end at this share of the peak."
    )
    betas: Annotated[list[float], Must(_are_decay_rates, "two numbers from 0 to below 1")] = Field(
        [0.9, 0.95], description="AdamW's decay rates."
    )
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(
        0.0, ge=0, description="AdamW's decoupled weight decay; biases and norms are exempt."
    )
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradients are scaled down to this global norm; 0: never."
    )
    freeze: Annotated[
        list[str], Must(_are_parts, 'some of "vision", "projector", "language", each once')
    ] = Field([], description='Parts that stay fixed: any of "vision", "projector", "language".')
    lora: LoraConfig = Field(default_factory=LoraConfig)
    activation_checkpointing: bool = Field(
        True, description="Recompute vision blocks and language layers in the backward pass."
    )
    compile: bool = Field(
        True,
        description="On CUDA: compile vision blocks, and language layers that have no experts.",
    )
    experts: Literal["grouped_mm", "eager"] = Field(
        "grouped_mm",
        description="Mixtures of experts: all experts of a layer in one grouped product, or one "
        "after the other.",
    )
    replicas: int = Field(
        0,
        ge=0,
        description="HSDP: this many replicas, each sharded over world size / replicas ranks; 0: "
        "one per node.",
    )
    reduce_once: bool = Field(
        False,
        description="Gradients stay whole on each rank until the last micro-batch: less traffic, "
        "4 bytes more per trained parameter and rank.",
    )
    micro_batch_tokens: int = Field(
        16384,
        ge=1,
        description="Tokens of one forward pass on one rank: a prompt once, plus its responses.",
    )
    logprob_chunk: int = Field(
        1024, ge=1, description="Response tokens whose logits exist at a time."
    )

    @property
    def fixed_parts(self) -> set[str]:
        """Parts of which nothing changes: frozen, or without a target of an adapter."""
        return set(PARTS) - self.lora.parts if self.lora.is_on else set(self.freeze)


class RolloutConfig(EngineConfig, SamplingConfig):
    n: int = Field(8, description="Captions per prompt.")
    max_tokens: int = Field(4096, ge=1, description="Longest caption, in tokens.")
    top_k: int = Field(0, ge=0, description="Sample among the k most likely tokens; 0: all.")
    max_model_len: int = Field(18000, ge=1, description="Prompt and caption together, in tokens.")
    tensor_parallel_size: int = Field(
        1, ge=1, description="Ranks that share one engine, and one reader where it is in process."
    )
    gpu_memory_utilization: float = Field(
        0.5, gt=0, le=1, description="Share of a GPU's memory for the engine, cache included."
    )
    kv_cache_gib: float = Field(
        4.0, gt=0, description="Size of the engine's KV cache on a CPU, GiB."
    )
    max_num_seqs: int = Field(256, ge=1, description="Captions that the engine writes at a time.")
    sleep: bool = Field(
        True, description="On CUDA: the engine gives its memory back while the policy trains."
    )
    enforce_eager: bool = Field(False, description="On CUDA: no CUDA graphs.")
    refill: bool = Field(
        False, description="Replace groups that carry no gradient by fresh prompts."
    )
    refill_tries: int = Field(
        3, description="Extra batches drawn for it at most; then the run stops with an error."
    )


# --- algorithm --------------------------------------------------------------------------------


class AlgorithmConfig(Table):
    advantage: Annotated[Options, OneOf(ADVANTAGES)] = Field(
        GRPO, description="How rewards of a group become advantages."
    )
    flat: FlatConfig = Field(default_factory=FlatConfig)
    whiten: bool = Field(
        False,
        description="Advantages get mean 0 and deviation 1 over the response tokens of the whole "
        "batch; groups of equal rewards then carry a gradient, too.",
    )
    loss: Annotated[Options, OneOf(LOSSES)] = Field(PPO, description="The loss of each token.")
    aggregation: Aggregation = Field(
        "token-mean",
        description="How token losses become one number; all denominators are global.",
    )
    old: Literal["trainer", "engine"] = Field(
        "trainer", description="Whose log-probs of the sampled tokens the ratio compares with."
    )
    kl: Annotated[KlOptions, OneOf(KL)] = Field(
        K3, description="The KL term against the reference policy: its estimator."
    )
    corrections: Annotated[dict[str, Options], Named(CORRECTIONS)] = Field(
        TIS,
        description="What token losses are multiplied with, since the engine has sampled and the "
        "trainer learns.",
    )
    updates: int = Field(
        1, ge=1, description="Optimizer steps per batch: it is cut into this many mini-batches."
    )
    mismatch_alarm: float = Field(
        0.05,
        gt=0,
        description="Warn when the mean |log p(trainer) - log p(engine)| of a step, or of the "
        "start's probe, is above this; above 0.3, if that is more, the probe ends the run.",
    )


class EvalConfig(Table):
    every: int = Field(
        50,
        ge=0,
        description="Evaluate on data.eval_files, or what data.hold_out keeps, every this many "
        "steps, at step 0 and at the end; 0: never.",
    )
    samples: int = Field(0, ge=0, description="Held-out samples used; 0: all.")
    draws: int = Field(0, ge=0, description="Questions drawn per caption; 0: each question once.")


class LogConfig(Table):
    backends: Annotated[
        list[str], Must(_are_backends, 'some of "wandb", "tensorboard", each once')
    ] = Field(
        ["wandb"],
        description='Where metrics go beside metrics.jsonl: any of "wandb", "tensorboard".',
    )
    wandb: Literal["offline", "online", "disabled"] = Field(
        "offline", description="Whether Weights & Biases gets them at once, later, or not at all."
    )
    project: str = Field("caprl_native", description="Its project.")
    tables: int = Field(
        0,
        ge=0,
        description="Groups of each step whose captions go to the backends as well, with their "
        "media as small pictures; 0: none.",
    )
    rollouts: int = Field(-1, ge=-1, description="Captions per step in the rollout log; -1: all.")
    per_sample: Annotated[
        str, Must(lambda name: not name or _can_be_a_folders(name), "empty, or a folder's name")
    ] = Field(
        "",
        description="Folder within the run's where each step's captions are written once more, in "
        "a file for each sample: FOLDER/STEP/ID.json; empty: they are not.",
    )
    progress: bool = Field(True, description="Show a progress bar.")


# --- programs ---------------------------------------------------------------------------------


class Program(Table):
    """What the settings of every program begin with."""

    plugins: list[str] = Field(
        [],
        description="Modules or Python files that register further types; imported first.",
    )

    @classmethod
    def grown(cls) -> type[Self]:
        """This schema, with tables for what plugins have registered since it was made."""
        return cls

    @field_validator("plugins")
    @classmethod
    def _imported(cls, names: list[str]) -> list[str]:
        """So that what they register can be assigned to a config that is built in Python."""
        for name in names:
            try:
                load_plugin(name)
            except ImportError as error:
                raise ValueError(f"{name!r}: {error}") from error
        return names


class Config(Program):
    """The whole of a training run's settings."""

    moved: ClassVar[dict[str, str]] = MOVED

    run: RunConfig = Field(default_factory=RunConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    media: MediaConfig = Field(default_factory=MediaConfig)
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    reward: RewardConfig = Field(default_factory=RewardConfig)
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    alarms: AlarmsConfig = Field(default_factory=AlarmsConfig)
    log: LogConfig = Field(default_factory=LogConfig)


class SftConfig(Program):
    """The settings of supervised training (`python -m caprl_native.sft`)."""

    run: RunConfig = Field(default_factory=RunConfig)
    data: SftDataConfig = Field(default_factory=SftDataConfig)
    media: MediaConfig = Field(default_factory=MediaConfig)
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    eval: SftEvalConfig = Field(default_factory=SftEvalConfig)
    log: LogConfig = Field(default_factory=LogConfig)
