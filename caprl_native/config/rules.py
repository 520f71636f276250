"""Which settings go together, and which a run needs. Nothing here looks at a file or a device.

The bounds of a single setting stand on its field in `schema.py`; what depends on the number of
ranks is checked by `dry_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from caprl_native.config.schema import PARTS, Config, ReaderConfig, RolloutConfig, SftConfig
from caprl_native.config.toml import ConfigError, Origins
from caprl_native.config.tree import value_at
from caprl_native.inference.endpoint import settings_problem
from caprl_native.messages import shown
from caprl_native.redact import redact


@dataclass(frozen=True)
class Rules:
    """Raises the error of a broken rule, naming the keys it speaks of and where they were set."""

    config: Any
    origins: Origins

    def value(self, key: str) -> Any:
        """The config's value under a dotted key."""
        return value_at(self.config, key)

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


def check(config: Config, origins: Origins | None = None) -> None:
    """Raises ConfigError at the first setting of a training run that cannot be meant."""
    rules = Rules(config, origins or Origins())
    _common(rules)
    _rollout(rules, config.rollout)
    _lengths(rules, config)
    _reward(rules, config)
    _correction(rules, config)
    rules.require(
        config.data.batch_size % config.algorithm.updates == 0,
        "algorithm.updates",
        "a divisor of data.batch_size",
        "data.batch_size",
    )
    rules.require(
        config.eval.every == 0 or bool(config.data.eval_files),
        "eval.every",
        "0 where there are no data.eval_files",
        "data.eval_files",
    )


def check_sft(config: SftConfig, origins: Origins | None = None) -> None:
    """Raises ConfigError at the first setting of a supervised run that cannot be meant."""
    rules = Rules(config, origins or Origins())
    _common(rules)
    rules.require(
        not config.run.shuffle_rewards, "run.shuffle_rewards", "false: there are no rewards"
    )


def _common(rules: Rules) -> None:
    """What both kinds of training need."""
    epochs, steps = rules.value("run.epochs"), rules.value("run.steps")
    rules.require(epochs > 0 or steps > 0, "run.epochs", "1 or more", "run.steps")
    rules.require(bool(rules.value("data.files")), "data.files", "at least one training file")
    for low, high in (
        ("media.image_min_pixels", "media.image_max_pixels"),
        ("media.video_min_frames", "media.video_max_frames"),
    ):
        rules.require(rules.value(low) <= rules.value(high), high, f"{low} or more", low)
    path = "policy.path"
    rules.require(bool(rules.value(path)), path, "the directory of a Hugging Face model")
    frozen = rules.value("policy.freeze")
    rules.require(len(frozen) < len(PARTS), "policy.freeze", "at least one part left to be trained")


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
    _fits(rules, "rollout")
    tries = "rollout.refill_tries"
    rules.require(not rollout.refill or rollout.refill_tries >= 1, tries, "1 or more")


def _fits(rules: Rules, table: str) -> None:
    """What a model writes is shorter than its context."""
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
    _reader(rules, reward.reader)
    rules.require(
        not reward.reader.path
        or config.rollout.gpu_memory_utilization + reward.reader.gpu_memory_utilization <= 1,
        "reward.reader.gpu_memory_utilization",
        "no more than the policy's engine leaves",
        "rollout.gpu_memory_utilization",
    )
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
    _fits(rules, "reward.reader")


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
