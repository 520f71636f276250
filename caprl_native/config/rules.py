"""Which combinations of settings make sense. Nothing here looks at a file or a device.

What depends on the number of ranks is checked by `plan.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NoReturn

from caprl_native.config.schema import (
    AlgorithmConfig,
    Config,
    DataConfig,
    MediaConfig,
    PolicyConfig,
    ReaderConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
)
from caprl_native.config.toml import ConfigError, Origins
from caprl_native.inference.endpoint import settings_problem
from caprl_native.messages import shown
from caprl_native.redact import redact

PARTS = ("vision", "projector", "language")  # what policy.freeze may name


@dataclass(frozen=True)
class Rules:
    """Raises the error of a broken rule, naming the keys it speaks of and where they were set."""

    config: Any
    origins: Origins

    def value(self, key: str) -> Any:
        """The config's value under a dotted key."""
        found = self.config
        for name in key.split("."):
            found = getattr(found, name)
        return found

    def require(self, ok: bool, key: str, expected: str, *others: str) -> None:
        """Raises ConfigError unless `ok`. `others`: further keys that the rule compares with."""
        if ok:
            return
        shown = [f"found {self._shown(key)}"]
        shown += [f"with {other} = {self._shown(other)}" for other in others]
        places = [self.origins.of(k) for k in (key, *others)]
        where = next((f"{place}: " for place in places if place != "default"), "")
        raise ConfigError(f"{where}{key}: expected {expected}, {', '.join(shown)}")

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raises ConfigError of a setting, naming where it was set, without its value."""
        place = self.origins.of(key)
        where = "" if place == "default" else f"{place}: "
        raise ConfigError(f"{where}{key}: {problem}")

    def forbid(self, table: str, problem: tuple[str, str] | None) -> None:
        """Fails for a field of a table and its problem, where there is one."""
        if problem:
            self.fail(f"{table}.{problem[0]}", problem[1])

    def _shown(self, key: str) -> str:
        value = self.value(key)
        text = str(value).lower() if isinstance(value, bool) else shown(value)
        return f"{redact(text)} ({self.origins.of(key)})"

    def at_least(self, lowest: float, *keys: str) -> None:
        """Each key's value must be `lowest` or more."""
        for key in keys:
            self.require(self.value(key) >= lowest, key, f"{lowest} or more")

    def above(self, bound: float, *keys: str) -> None:
        """Each key's value must be more than `bound`."""
        for key in keys:
            self.require(self.value(key) > bound, key, f"more than {bound}")

    def share(self, *keys: str) -> None:
        """Each key's value must lie between 0 and 1, both included."""
        for key in keys:
            self.require(0 <= self.value(key) <= 1, key, "a share between 0 and 1")


def check(config: Config, origins: Origins | None = None) -> None:
    """Raises ConfigError at the first setting of a training run that cannot be meant."""
    rules = Rules(config, origins or Origins())
    _run(rules, config.run)
    _data(rules, config.data)
    _media(rules, config.media)
    _policy(rules, config.policy)
    _rollout(rules, config.rollout)
    _lengths(rules, config)
    _reward(rules, config)
    _algorithm(rules, config.algorithm)
    _correction(rules, config)
    rules.require(
        config.data.batch_size % config.algorithm.updates == 0,
        "algorithm.updates",
        "a divisor of data.batch_size",
        "data.batch_size",
    )
    rules.at_least(0, "eval.every", "eval.samples", "eval.draws")
    rules.require(
        config.eval.every == 0 or bool(config.data.eval_files),
        "eval.every",
        "0 where there are no data.eval_files",
        "data.eval_files",
    )
    rules.at_least(-1, "log.rollouts")


def check_sft(config: SftConfig, origins: Origins | None = None) -> None:
    """Raises ConfigError at the first setting of a supervised run that cannot be meant."""
    rules = Rules(config, origins or Origins())
    _run(rules, config.run)
    rules.require(
        not config.run.shuffle_rewards, "run.shuffle_rewards", "false: there are no rewards"
    )
    _data(rules, config.data)
    _media(rules, config.media)
    _policy(rules, config.policy)
    rules.at_least(-1, "log.rollouts")


def _run(rules: Rules, run: RunConfig) -> None:
    rules.require(
        run.name not in ("", ".", "..")
        and "/" not in run.name
        and len(os.fsencode(run.name)) <= 200,
        "run.name",
        "a name that can be a folder's (no slash, 1 to 200 bytes)",
    )
    rules.at_least(
        0, "run.seed", "run.epochs", "run.steps", "run.save_every", "run.keep", "run.threads"
    )
    rules.require(run.epochs > 0 or run.steps > 0, "run.epochs", "1 or more", "run.steps")
    rules.require(
        run.resume in ("", "latest") or run.resume.isdecimal(),
        "run.resume",
        'empty, "latest" or a step number in quotes',
    )


def _data(rules: Rules, data: DataConfig) -> None:
    rules.require(bool(data.files), "data.files", "at least one training file")
    for key in ("data.files", "data.eval_files"):
        rules.require(all(rules.value(key)), key, "file names that are not empty")
    rules.at_least(1, "data.batch_size", "data.max_prompt_tokens", "data.prefetch")
    rules.at_least(0, "data.workers")
    rules.share("data.max_skipped_share")


def _media(rules: Rules, media: MediaConfig) -> None:
    rules.at_least(
        1,
        "media.image_min_pixels",
        "media.video_min_frames",
        "media.video_frame_pixels",
        "media.video_total_pixels",
        "media.max_per_prompt",
    )
    for low, high in (
        ("media.image_min_pixels", "media.image_max_pixels"),
        ("media.video_min_frames", "media.video_max_frames"),
    ):
        rules.require(rules.value(low) <= rules.value(high), high, f"{low} or more", low)
    rules.above(0, "media.video_fps", "media.decode_seconds")
    rules.at_least(0.5, "media.decode_gib")


def _policy(rules: Rules, policy: PolicyConfig) -> None:
    rules.require(bool(policy.path), "policy.path", "the directory of a Hugging Face model")
    rules.at_least(0, "policy.lr", "policy.warmup_steps", "policy.weight_decay")
    rules.at_least(0, "policy.max_grad_norm")
    rules.above(0, "policy.eps")
    rules.share("policy.min_lr_ratio")
    rules.require(
        len(policy.betas) == 2 and all(0 <= b < 1 for b in policy.betas),
        "policy.betas",
        "two numbers from 0 to below 1",
    )
    names = ", ".join(f'"{part}"' for part in PARTS)
    rules.require(
        set(policy.freeze) <= set(PARTS) and len(set(policy.freeze)) == len(policy.freeze),
        "policy.freeze",
        f"some of {names}, each once",
    )
    rules.require(
        len(policy.freeze) < len(PARTS), "policy.freeze", "at least one part left to be trained"
    )
    rules.at_least(1, "policy.replicas", "policy.micro_batch_tokens", "policy.logprob_chunk")


def _rollout(rules: Rules, rollout: RolloutConfig) -> None:
    rules.require(
        rollout.n >= 2,
        "rollout.n",
        "2 or more: an advantage compares the captions of one prompt",
        "algorithm.advantage",
    )
    rules.require(
        rollout.temperature > 0,
        "rollout.temperature",
        "more than 0: greedy captions of one prompt are all the same",
        "rollout.n",
    )
    _sampling(rules, "rollout")
    rules.at_least(0, "rollout.top_k")
    rules.at_least(1, "rollout.tensor_parallel_size")
    if rollout.refill:
        rules.at_least(1, "rollout.refill_tries")


def _sampling(rules: Rules, table: str) -> None:
    """What the policy's engine and the reader's have in common."""
    temperature = f"{table}.temperature"
    rules.require(0 <= rules.value(temperature) <= 2, temperature, "0 to 2, what engines accept")
    top_p = f"{table}.top_p"
    rules.require(0 < rules.value(top_p) <= 1, top_p, "more than 0, at most 1")
    rules.at_least(1, f"{table}.max_tokens", f"{table}.max_num_seqs")
    share = f"{table}.gpu_memory_utilization"
    rules.require(0 < rules.value(share) <= 1, share, "more than 0, at most 1")
    rules.above(0, f"{table}.kv_cache_gib")
    tokens, length = f"{table}.max_tokens", f"{table}.max_model_len"
    rules.require(rules.value(tokens) < rules.value(length), tokens, f"less than {length}", length)


def _lengths(rules: Rules, config: Config) -> None:
    rollout, reader = config.rollout, config.reward.reader
    rules.require(
        config.data.max_prompt_tokens + rollout.max_tokens <= rollout.max_model_len,
        "rollout.max_model_len",
        "data.max_prompt_tokens + rollout.max_tokens or more",
        "data.max_prompt_tokens",
        "rollout.max_tokens",
    )
    rules.require(
        not reader.path or rollout.max_tokens + reader.max_tokens < reader.max_model_len,
        "reward.reader.max_model_len",
        "room for the longest caption, a question and the answer",
        "rollout.max_tokens",
    )


def _reward(rules: Rules, config: Config) -> None:
    reward = config.reward
    rules.at_least(0, "reward.alpha", "reward.beta")
    _reader(rules, reward.reader)
    rules.require(
        not reward.reader.path
        or config.rollout.gpu_memory_utilization + reward.reader.gpu_memory_utilization <= 1,
        "reward.reader.gpu_memory_utilization",
        "no more than the policy's engine leaves",
        "rollout.gpu_memory_utilization",
    )
    rules.at_least(0, "reward.accuracy.draws")
    rules.at_least(0, "reward.timestamps.max_minute", "reward.length.l1")
    rules.at_least(1, "reward.timestamps.min_brackets")
    rules.require(
        reward.length.l1 < reward.length.l2,
        "reward.length.l2",
        "more than reward.length.l1",
        "reward.length.l1",
    )


def _reader(rules: Rules, reader: ReaderConfig) -> None:
    path, endpoint, model = "reward.reader.path", "reward.reader.endpoint", "reward.reader.model"
    rules.require(
        bool(reader.path) != bool(reader.endpoint),
        path,
        "either a model directory here or a server in reward.reader.endpoint, not both or neither",
        endpoint,
    )
    rules.forbid("reward.reader", settings_problem(reader))
    rules.require(
        not reader.endpoint or bool(reader.model),
        model,
        "the model's name at the endpoint",
        endpoint,
    )
    _sampling(rules, "reward.reader")
    rules.at_least(1, "reward.reader.concurrency")
    rules.at_least(0, "reward.reader.retries")
    rules.above(0, "reward.reader.timeout_s")


def _correction(rules: Rules, config: Config) -> None:
    """The engine's log-probs are of the tokens that it may draw, the trainer's of all."""
    for key, whole in (("rollout.top_k", 0), ("rollout.top_p", 1.0)):
        rules.require(
            rules.value(key) == whole or config.algorithm.tis_cap == 0,
            key,
            f"{whole}, or algorithm.tis_cap = 0: importance sampling compares the trainer "
            "with the engine, whose log-probs are of fewer tokens here",
            "algorithm.tis_cap",
        )


def _algorithm(rules: Rules, algorithm: AlgorithmConfig) -> None:
    rules.at_least(0, "algorithm.std_eps", "algorithm.kl_weight", "algorithm.clip_high")
    rules.require(0 <= algorithm.clip_low < 1, "algorithm.clip_low", "0 or more, less than 1")
    rules.require(
        algorithm.dual_clip == 0 or algorithm.dual_clip > 1,
        "algorithm.dual_clip",
        "0, or more than 1",
    )
    rules.require(
        algorithm.tis_cap == 0 or algorithm.tis_cap >= 1, "algorithm.tis_cap", "0, or 1 or more"
    )
    rules.at_least(1, "algorithm.updates")
    rules.above(0, "algorithm.mismatch_alarm")
