"""The recipes of published runs set what was published, figure by figure, and resolve."""

from __future__ import annotations

from typing import Any

import pytest
import tomli

from caprl_native.config.cli import load_with_origins
from caprl_native.config.load import dump
from caprl_native.config.rules import check
from caprl_native.config.schema import Config
from caprl_native.config.toml import RECIPES
from caprl_native.config.tree import value_at
from caprl_native.rewards.memory.options import MemoryOptions
from caprl_native.rewards.terms.timestamps import TimestampsOptions
from caprl_native.train import main

# Both scripts.
PUBLISHED: dict[str, Any] = {
    "data.batch_size": 128,
    "rollout.n": 8,
    "algorithm.updates": 1,
    "policy.warmup_steps": 20,
    "policy.max_grad_norm": 1.0,
    "algorithm.advantage.type": "rloo",
    "algorithm.flat.by": "total",
    "algorithm.flat.spread": 0.0,
    "algorithm.kl.weight": 0.0,
    "algorithm.corrections.tis.type": "none",
    "algorithm.loss.type": "ppo",
    "algorithm.loss.clip_low": 0.2,
    "algorithm.loss.clip_high": 0.2,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "rollout.top_k": 0,
    "rollout.max_tokens": 4096,
    "reward.gate": False,
    "reward.terms.accuracy.questions": "own",
    "reward.terms.accuracy.answers": "sampled",
    "reward.terms.accuracy.draws": 8,
    "reward.terms.accuracy.shuffles": 1,
    "reward.reader.temperature": 0.6,
    "reward.reader.top_p": 1.0,
    "reward.reader.max_tokens": 10,
    "run.save_every": 50,
}
CAPRL_1 = PUBLISHED | {
    "policy.path": "models/Qwen2.5-VL-3B-Instruct",
    "reward.reader.path": "models/Qwen2.5-3B-Instruct",
    "data.files": ["data/CapRL-QA-75K/train-*.parquet"],
    "policy.lr": 1e-6,
    "policy.schedule": "cosine",
    "policy.min_lr_ratio": 0.1,
    "policy.schedule_steps": 30 * (75_285 // 128),  # whole batches of its records
    "policy.betas": [0.9, 0.95],
    "policy.weight_decay": 0.0,
    "algorithm.whiten": True,
    "algorithm.old": "trainer",
    "algorithm.loss.dual_clip": 0.0,
    "algorithm.aggregation": "token-mean",
    "reward.terms.accuracy.weight": 2.0,
    "reward.terms.accuracy.shuffle": False,
    "rollout.gpu_memory_utilization": 0.4,
    "rollout.sleep": True,
    "media.image_min_pixels": 4 * 28 * 28,
    "media.image_max_pixels": 16_384 * 28 * 28,
    "run.epochs": 30,
    "run.steps": 1800,
    "run.keep": 0,
}
PAPER = CAPRL_1 | {
    "algorithm.advantage.type": "grpo",
    "algorithm.whiten": False,
    "algorithm.kl.type": "k3",
    "algorithm.kl.weight": 0.001,
    "reward.terms.accuracy.weight": 1.0,
    "reward.terms.accuracy.shuffle": True,
}
IMAGE = PUBLISHED | {
    "policy.path": "models/Qwen3-VL-4B-Instruct",
    "reward.reader.path": "models/Qwen3-4B-Instruct",
    "data.files": ["data/CapRL-QA-75K/train-*.parquet"],
    "policy.lr": 1e-5,
    "policy.schedule": "constant",
    "policy.betas": [0.9, 0.999],
    "policy.weight_decay": 0.01,
    "algorithm.whiten": False,
    "algorithm.old": "engine",
    "algorithm.loss.dual_clip": 3.0,
    "algorithm.aggregation": "seq-mean-token-mean",
    "data.max_prompt_tokens": 13_000,
    "rollout.max_model_len": 18_000,
    "reward.terms.accuracy.weight": 1.0,
    "reward.terms.accuracy.shuffle": True,
    "reward.terms.length.weight": 0.2,
    "reward.terms.length.l1": 2048,
    "reward.terms.length.l2": 3072,
    "media.image_min_pixels": 64 * 32 * 32,
    "media.image_max_pixels": 16_384 * 32 * 32,
    "media.fit": "reduce",
    "run.epochs": 3,
    "run.steps": 0,
    "run.keep": 10,
    "log.project": "CapRL_video",
}
VIDEO = IMAGE | {
    "data.files": ["data/CapRL-Video-QA-20K/*.[jp]*[lt]"],
    "reward.terms.timestamps.weight": 0.2,
    "reward.terms.timestamps.max_minute": 599,
    "reward.terms.timestamps.min_brackets": 3,
    "media.video_fps": 2.0,
    "media.video_min_frames": 4,
}
TABLE = {
    ("caprl_image.toml",): CAPRL_1,
    ("caprl_image.toml", "paper.toml"): PAPER,
    ("caprl_internvl.toml",): CAPRL_1
    | {
        "policy.path": "models/InternVL3_5-8B-HF",
        "media.image_min_pixels": 1,
        "media.tiles_min": 1,
        "media.tiles_max": 12,
        "media.thumbnail": True,
        "policy.freeze": [],
        "data.max_prompt_tokens": 4096,
    },
    ("image.toml",): IMAGE,
    ("video.toml",): VIDEO,
    ("s2d_image.toml",): IMAGE | {"run.dir": "outputs/s2d_image", "run.export": True},
    ("s2d_video.toml",): VIDEO | {"policy.path": "outputs/s2d_image/export"},
    ("video.toml", "one_80gb_2b.toml"): VIDEO
    | {"policy.path": "models/Qwen3-VL-2B-Instruct", "data.batch_size": 32},
    ("image.toml", "four_80gb_4b.toml"): IMAGE,
}
EACH = pytest.mark.parametrize("files", TABLE, ids=" ".join)


@EACH
def test_every_figure_is_as_published(files: tuple[str, ...]) -> None:
    config, origins = load_with_origins(Config, files)
    check(config, origins)
    found = {key: value_at(config, key) for key in TABLE[files]}
    assert found == TABLE[files]
    terms = {key.split(".")[2] for key in TABLE[files] if key.startswith("reward.terms.")}
    assert set(config.reward.terms) == terms, "and no other term is rewarded"


@EACH
def test_held_out_data_are_evaluated(files: tuple[str, ...]) -> None:
    config, _ = load_with_origins(Config, files)
    assert config.eval.every == 50 and 0 < config.data.hold_out <= 0.01


@EACH
def test_it_resolves_in_a_dry_run(files: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    """What it prints as TOML is the whole config, and names the file of each value that is set."""
    main(["--config", *files, "--dry-run", "--ranks", "16", "--gpu-memory", "79.1"])
    text = capsys.readouterr().out
    config, origins = load_with_origins(Config, files)
    resolved = text[: text.index("\nplan\n")]
    assert tomli.loads(resolved) == tomli.loads(dump(config))
    assert all(place.startswith(str(RECIPES)) for place in origins.values())
    assert "prompts x 8 captions" in text and "every 50 steps" in text


MEMORY = {
    "run.epochs": 1,
    "run.save_every": 10,
    "data.batch_size": 32,
    "data.max_prompt_tokens": 24_576,
    "data.curriculum": "step",
    "data.history.pick": "first_valid",
    "policy.path": "models/Qwen3-VL-30B-A3B-Thinking",
    "policy.lr": 1e-6,
    "policy.schedule": "constant",
    "rollout.n": 8,
    "rollout.temperature": 0.7,
    "rollout.top_p": 0.8,
    "rollout.top_k": 20,
    "rollout.max_tokens": 8192,
    "rollout.max_num_seqs": 1024,
    "rollout.tensor_parallel_size": 4,
    "rollout.gpu_memory_utilization": 0.7,
    "reward.terms.memory.think_length_threshold": 1200,
    "reward.terms.memory.think_penalty": -1.0,
    "reward.terms.memory.memory_length_threshold": 5,
    "reward.terms.memory.usefulness_scale": 0.1,
    "reward.terms.memory.memory_token_threshold": 150,
    "reward.terms.memory.correct_reward": 0.5,
    "reward.terms.memory.wrong_reward": -0.5,
    "reward.terms.memory.format_penalty": -1.5,
    "reward.terms.memory.failure_penalty": 0.0,
    "algorithm.advantage.type": "optimize_threshold",
    "algorithm.loss.type": "gspo_token",
    "algorithm.loss.clip_low": 0.2,
    "algorithm.loss.clip_high": 0.28,
    "algorithm.loss.max_log_ratio": 10.0,
    "algorithm.aggregation": "seq-mean-token-mean",
    "algorithm.updates": 4,
    "algorithm.old": "trainer",
    "algorithm.kl.weight": 0.0,
    "log.project": "m3_qwen3_vl",
}


def test_the_run_of_memories_is_as_documented(capsys: pytest.CaptureFixture) -> None:
    config, origins = load_with_origins(Config, ["memory.toml"])
    check(config, origins)
    assert {key: value_at(config, key) for key in MEMORY} == MEMORY
    (term,) = config.reward.terms.values()
    given = {name: getattr(term, name) for name in type(term).model_fields}
    judges = {name: given.pop(name) for name in ("correctness", "label", "usefulness")}
    assert given == {k: v for k, v in dict(MemoryOptions()).items() if k in given}, "the defaults"
    assert {j.endpoint_file for j in judges.values()} == {"configs/api_config.json"}
    main(["--config", "memory.toml", "--dry-run", "--ranks", "32", "--gpu-memory", "79.1"])
    assert "optimizer steps       4 per batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--reward.terms.memory.label.model=", "label.model: expected the model's name"),
        ("--reward.terms.memory.usefulness.endpoint_file=", "usefulness.path: expected one of"),
        ("--reward.terms.memory.think_length_threshold=0", "expected 1 or more"),
        ("--algorithm.advantage.count=other/count", 'expected a part "TERM/PART" of a term'),
        ("--run.shuffle_rewards=true", "run.shuffle_rewards: expected false"),
        ("--reward.terms.memory.label.api_key_env=sk-0123456789", "label.api_key_env: is not the"),
    ],
)
def test_what_contradicts_it_names_the_key(word: str, said: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--config", "memory.toml", "--dry-run", *word.split("=", 1)])
    told = capsys.readouterr()
    assert said in told.err and "0123456789" not in told.out + told.err


def test_the_largest_image_fits_into_a_prompt() -> None:
    """CapRL 1.0 shows it whole, and 200 tokens of text; CapRL++ has a lower limit."""
    for name, side, whole in (("caprl_image.toml", 28, True), ("image.toml", 32, False)):
        config, _ = load_with_origins(Config, [name])
        tokens = config.media.image_max_pixels // side**2
        assert (tokens + 200 <= config.data.max_prompt_tokens) == whole
        assert config.media.fit == "reduce"


def test_the_bracket_rules_take_the_released_bound_by_themselves() -> None:
    assert TimestampsOptions().max_minute == 599


def test_the_video_pattern_takes_both_layouts() -> None:
    from fnmatch import fnmatch

    pattern = "*.[jp]*[lt]"
    taken = ["train.jsonl", "a.jsonl", "train-00000-of-00002.parquet"]
    assert all(fnmatch(name, pattern) for name in taken)
    assert not any(fnmatch(name, pattern) for name in ["a.json", "a.jpg", "a.png", "README.md"])
