"""Every setting of a run: one dataclass per TOML table, each field with its meaning.

How files, overrides and errors are handled stands in `config_io.py`; the numbers here are the
defaults, and `train_configs/` holds the recipes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def opt(default: Any, help: str, *, path: bool = False) -> Any:
    """A dataclass field with a default (lists are copied) and one sentence of documentation.

    `path`: it names a file or a folder, or several; a leading `~` is the user's home folder.
    """
    metadata = {"help": help, "path": path}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunConfig:
    name: str = opt("run", "Name of the run; shown in logs and in Weights & Biases.")
    dir: str = opt("", "Where everything of the run is written; empty: outputs/<name>.", path=True)
    seed: int = opt(0, "Seed of data order, sampling, question draws and initialisation.")
    epochs: int = opt(3, "Passes over the training files.")
    steps: int = opt(0, "Stop after this many steps; 0: as many as the epochs give.")
    save_every: int = opt(
        50, "Checkpoint every this many steps, and at the end; 0: only at the end."
    )
    keep: int = opt(3, "How many of the newest checkpoints are kept; 0: all.")
    export: bool = opt(True, "Write a Hugging Face model directory at the end.")
    resume: str = opt(
        "", 'Continue from a checkpoint: "latest", or a step number; empty: start anew.'
    )
    overwrite: bool = opt(
        False,
        "Start anew in a folder that holds a run; its checkpoints, metrics and export are put "
        "aside as *.abandoned.",
    )
    threads: int = opt(0, "Torch threads of each rank on a CPU; 0: the cores divided by the ranks.")
    shuffle_rewards: bool = opt(
        False,
        "Control experiment: permute the rewards over the whole batch: nothing can be learnt.",
    )


@dataclass
class DataConfig:
    files: list[str] = opt([], "Training files: JSONL, JSON lists or Parquet.", path=True)
    eval_files: list[str] = opt([], "Held-out files in the same formats.", path=True)
    media_root: str = opt(
        "", "Folder that relative media paths start from; empty: the data file's own.", path=True
    )
    prompt: str = opt("", "Replaces the user turn's text of every record; empty: the record's own.")
    batch_size: int = opt(128, "Prompts per step, over all ranks.")
    max_prompt_tokens: int = opt(
        13000, "Longer prompts (media tokens counted) are left out, never cut."
    )
    shuffle: bool = opt(True, "Shuffle the records anew in every epoch.")
    workers: int = opt(
        2, "Loader processes per rank that decode media; 0: decode in the training process."
    )
    prefetch: int = opt(2, "Batches that each loader process prepares ahead.")
    max_skipped_share: float = opt(
        0.05, "The run fails when more than this share of the samples seen could not be used."
    )


@dataclass
class MediaConfig:
    image_min_pixels: int = opt(4 * 32 * 32, "Smaller images are enlarged to this many pixels.")
    image_max_pixels: int = opt(1280 * 32 * 32, "Larger images are reduced to this many pixels.")
    video_fps: float = opt(2.0, "Frames taken per second of video.")
    video_min_frames: int = opt(4, "At least this many frames per video, where it has them.")
    video_max_frames: int = opt(128, "At most this many frames per video, evenly spaced.")
    video_frame_pixels: int = opt(256 * 32 * 32, "At most this many pixels per frame.")
    video_total_pixels: int = opt(
        12000 * 32 * 32 * 2,
        "At most this many pixels in all frames together, so that long videos fit.",
    )
    max_per_prompt: int = opt(8, "At most this many images, or videos, in one prompt.")
    decode_seconds: float = opt(
        120.0, "A file that takes longer to decode is skipped; its decoder is ended."
    )
    decode_gib: float = opt(
        4.0, "A file that needs more memory than this to decode, in GiB, is skipped."
    )


@dataclass
class PolicyConfig:
    path: str = opt("", "Hugging Face directory of the captioner to train.", path=True)
    dtype: Literal["bfloat16", "float32"] = opt(
        "bfloat16", "Compute precision; master weights are float32."
    )
    lr: float = opt(1e-6, "Peak learning rate of AdamW.")
    schedule: Literal["constant", "cosine", "linear"] = opt(
        "constant", "Learning rate after the warm-up."
    )
    warmup_steps: int = opt(0, "Steps of linear warm-up.")
    min_lr_ratio: float = opt(0.0, "The decaying schedules end at this share of the peak.")
    betas: list[float] = opt([0.9, 0.95], "AdamW's decay rates.")
    eps: float = opt(1e-8, "AdamW's epsilon.")
    weight_decay: float = opt(0.0, "AdamW's decoupled weight decay; biases and norms are exempt.")
    max_grad_norm: float = opt(1.0, "Gradients are scaled down to this global norm; 0: never.")
    freeze: list[str] = opt([], 'Parts that stay fixed: any of "vision", "projector", "language".')
    activation_checkpointing: bool = opt(True, "Recompute language layers in the backward pass.")
    replicas: int = opt(
        1, "HSDP: this many replicas, each sharded over world size / replicas ranks."
    )
    micro_batch_tokens: int = opt(
        16384, "Tokens of one forward pass on one rank: a prompt once, plus its responses."
    )
    logprob_chunk: int = opt(1024, "Response tokens whose logits exist at one time.")


@dataclass
class RolloutConfig:
    n: int = opt(8, "Captions per prompt.")
    temperature: float = opt(1.0, "Sampling temperature; 0: greedy.")
    top_p: float = opt(1.0, "Nucleus sampling.")
    top_k: int = opt(0, "Sample among the k most likely tokens; 0: all.")
    max_tokens: int = opt(4096, "Longest caption, in tokens.")
    max_model_len: int = opt(18000, "Prompt and caption together, in tokens.")
    tensor_parallel_size: int = opt(
        1, "Ranks that share one engine, and one reader where it is in process."
    )
    gpu_memory_utilization: float = opt(
        0.5, "Share of a GPU's memory for the engine, cache included."
    )
    kv_cache_gib: float = opt(4.0, "Size of the engine's KV cache on a CPU, GiB.")
    max_num_seqs: int = opt(256, "Captions that the engine writes at one time.")
    sleep: bool = opt(True, "On CUDA: the engine gives its memory back while the policy trains.")
    enforce_eager: bool = opt(False, "On CUDA: no CUDA graphs.")
    refill: bool = opt(False, "Replace groups that carry no gradient by fresh prompts.")
    refill_tries: int = opt(
        3, "Extra batches drawn for it at most; then the run stops with an error."
    )


@dataclass
class ReaderConfig:
    path: str = opt(
        "", "Directory of the causal language model that reads the captions, in process.", path=True
    )
    endpoint: str = opt(
        "", "Or the base URL of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1."
    )
    model: str = opt("", "Model name at the endpoint.")
    prefill: bool = opt(
        True,
        'The endpoint can go on with an opened turn ("The answer is") and be told not to think '
        "aloud, as vLLM and SGLang can.",
    )
    api_key_env: str = opt(
        "", "Environment variable that holds the endpoint's key; empty: none is sent."
    )
    temperature: float = opt(0.6, "Sampling temperature of the answers.")
    top_p: float = opt(1.0, "Nucleus sampling of the answers.")
    max_tokens: int = opt(10, "Longest answer, in tokens.")
    dtype: Literal["bfloat16", "float32"] = opt("bfloat16", "Precision of the reader in process.")
    max_model_len: int = opt(8192, "Prompt and answer together, in tokens.")
    max_num_seqs: int = opt(256, "Questions that the reader in process answers at one time.")
    gpu_memory_utilization: float = opt(0.2, "Share of a GPU's memory for the reader in process.")
    kv_cache_gib: float = opt(2.0, "Size of the reader's KV cache on a CPU, GiB.")
    concurrency: int = opt(64, "Requests in flight to the endpoint, per rank.")
    timeout_s: float = opt(60.0, "Seconds after which a request to the endpoint has failed.")
    retries: int = opt(3, "Further attempts for a question that failed, with growing pauses.")


@dataclass
class AccuracyConfig:
    draws: int = opt(8, "Questions drawn per caption, with replacement; 0: each question once.")
    cannot_answer: bool = opt(True, 'Offer one more choice: "cannot be answered from the caption".')


@dataclass
class TimestampsConfig:
    rule: Literal["release", "density"] = opt(
        "release",
        '"release": half valid share, half order; "density": the released server\'s rule.',
    )
    min_brackets: int = opt(3, "density: brackets that a caption should have at least.")
    max_minute: int = opt(999, "density: a larger minute makes a bracket invalid.")


@dataclass
class LengthConfig:
    l1: int = opt(2048, "Up to this many tokens the length reward is 1.")
    l2: int = opt(3072, "From this many tokens on it is 0; linear between.")


@dataclass
class RewardConfig:
    alpha: float = opt(0.0, "Weight of the timestamp reward (videos only); 0: not computed.")
    beta: float = opt(0.2, "Weight of the length reward; 0: not computed.")
    overlap: bool = opt(
        True, "The reader gets each caption when it is finished, not all when the last one is."
    )
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    accuracy: AccuracyConfig = field(default_factory=AccuracyConfig)
    timestamps: TimestampsConfig = field(default_factory=TimestampsConfig)
    length: LengthConfig = field(default_factory=LengthConfig)


@dataclass
class AlgorithmConfig:
    advantage: Literal["grpo", "rloo", "dr_grpo"] = opt(
        "grpo", "How rewards of a group become advantages."
    )
    std: Literal["unbiased", "population", "none"] = opt(
        "unbiased", "grpo: what the advantage is divided by."
    )
    std_eps: float = opt(1e-6, "grpo: added to the deviation.")
    loss: Literal["ppo", "gspo"] = opt("ppo", "Clipped ratio per token, or per sequence.")
    clip_low: float = opt(0.2, "The ratio is clipped below 1 - clip_low.")
    clip_high: float = opt(0.2, "The ratio is clipped above 1 + clip_high.")
    dual_clip: float = opt(0.0, "Bound on the loss of negative advantages, > 1; 0: none.")
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "dr_grpo"] = (
        opt("token-mean", "How token losses become one number; all denominators are global.")
    )
    kl_weight: float = opt(
        0.0, "Weight of the KL term against the reference policy; 0: none is loaded."
    )
    kl: Literal["k1", "k2", "k3"] = opt("k3", "Estimator of the KL term.")
    reference: str = opt("", "Directory of the reference policy; empty: policy.path.", path=True)
    tis_cap: float = opt(
        2.0, "Truncated importance sampling against the engine's log-probs; 0: off."
    )
    updates: int = opt(1, "Optimizer steps per batch: it is cut into this many mini-batches.")
    mismatch_alarm: float = opt(
        0.05, "Warn when the mean |log p(trainer) - log p(engine)| of a step is above this."
    )


@dataclass
class EvalConfig:
    every: int = opt(
        50, "Evaluate on data.eval_files every this many steps, at step 0 and at the end; 0: never."
    )
    samples: int = opt(0, "Held-out samples used; 0: all.")
    draws: int = opt(0, "Questions drawn per caption; 0: each question once.")


@dataclass
class LogConfig:
    wandb: Literal["offline", "online", "disabled"] = opt("offline", "Weights & Biases.")
    project: str = opt("caprl_native", "Its project.")
    rollouts: int = opt(-1, "Captions per step in the rollout log; -1: all.")
    progress: bool = opt(True, "Show a progress bar.")


@dataclass
class Config:
    """The whole of a training run's settings."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass
class SftDataConfig(DataConfig):
    loss_on: Literal["response", "all"] = opt(
        "response", "Train on the response's tokens, or on all text."
    )


@dataclass
class SftConfig:
    """The settings of supervised training (`python -m caprl_native.sft`)."""

    run: RunConfig = field(default_factory=RunConfig)
    data: SftDataConfig = field(default_factory=SftDataConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass
class ModelConfig:
    """A model: a directory that vLLM runs in process, or an OpenAI-compatible endpoint."""

    path: str = opt("", "Hugging Face directory of the model, run in process.", path=True)
    endpoint: str = opt("", "Or a server's base URL, e.g. http://127.0.0.1:8000/v1.")
    model: str = opt("", "Model name at the endpoint.")
    revision: str = opt(
        "",
        "Which weights the endpoint serves: change it with them, or old replies are taken.",
    )
    api_key_env: str = opt(
        "", "Environment variable that holds the endpoint's key; empty: none is sent."
    )
    temperature: float = opt(0.0, "Sampling temperature; 0: greedy.")
    top_p: float = opt(1.0, "Nucleus sampling.")
    top_k: int = opt(0, "In process: sample among the k most likely tokens; 0: all.")
    max_tokens: int = opt(1024, "Longest reply, in tokens.")
    prefill: bool = opt(
        True,
        'The endpoint can go on with an opened turn ("The answer is") and be told not to think '
        "aloud, as vLLM and SGLang can.",
    )
    concurrency: int = opt(64, "Requests in flight to the endpoint.")
    timeout_s: float = opt(600.0, "Seconds after which a request to the endpoint has failed.")
    retries: int = opt(3, "Further attempts of a request that failed, with growing pauses.")
    dtype: Literal["bfloat16", "float32"] = opt("bfloat16", "Precision in process.")
    max_model_len: int = opt(18000, "In process: prompt and reply together, in tokens.")
    max_num_seqs: int = opt(256, "In process: replies written at one time.")
    gpu_memory_utilization: float = opt(0.85, "In process: share of the GPU's memory.")
    kv_cache_gib: float = opt(4.0, "In process: size of the KV cache on a CPU, GiB.")
    enforce_eager: bool = opt(False, "In process: no CUDA graphs.")


@dataclass
class CaptionerConfig(ModelConfig):
    n: int = opt(4, "Captions per image or video.")
    temperature: float = opt(1.0, "Sampling temperature; 0: greedy.")
    max_tokens: int = opt(2048, "Longest caption, in tokens.")
    image_prompt: str = opt(
        "", 'Empty: the record\'s own, or "Please describe this image in detail."'
    )
    video_prompt: str = opt("", "The same for videos.")
    video_as: Literal["frames", "file"] = opt(
        "frames",
        "What an endpoint gets of a video: our frames as images, or the file itself (of clips and "
        "of folders of frames it gets our frames all the same).",
    )
    workers: int = opt(2, "Threads that decode media ahead.")
