"""Which settings go together, and which a run needs. Nothing here looks at a file or a device.

The bounds of a single setting stand on its field in `schema.py`; what depends on the number of
ranks is checked by `dry_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from caprl_native.config.fields import OFF
from caprl_native.config.history import HistoryConfig
from caprl_native.config.lora import LoraConfig
from caprl_native.config.models import ReaderConfig
from caprl_native.config.reward import RewardConfig
from caprl_native.config.schema import PARTS, Config, RolloutConfig, SftConfig
from caprl_native.config.toml import ConfigError, Origins
from caprl_native.config.tree import choices, types_of, value_at
from caprl_native.inference.endpoint import settings_problem
from caprl_native.messages import shown
from caprl_native.redact import redact
from caprl_native.registry import Options
from caprl_native.rewards.base import any_needs_questions


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
    rules.require(
        config.policy.lora.dropout == 0,
        "policy.lora.dropout",
        "0: the engine samples without it, so log-probs would be of another policy",
    )
    _lengths(rules, config)
    _reward(rules, config)
    check_options(rules)
    _correction(rules, config)
    asked = any_needs_questions(config.reward.terms)
    _questions(rules, asked=asked, why="no term of the reward asks questions")
    rules.require(
        config.data.batch_size % config.algorithm.updates == 0,
        "algorithm.updates",
        "a divisor of data.batch_size",
        "data.batch_size",
    )
    _held_out(rules, config)


def _held_out(rules: Rules, config: Config | SftConfig) -> None:
    data = config.data
    rules.require(
        not (data.hold_out and data.eval_files),
        "data.hold_out",
        "0 where there are data.eval_files",
        "data.eval_files",
    )
    rules.require(data.hold_out < 1, "data.hold_out", "less than 1: the rest is trained on")
    rules.require(
        config.eval.every == 0 or bool(data.eval_files or data.hold_out),
        "eval.every",
        "0 where there are neither data.eval_files nor data.hold_out",
        "data.eval_files",
    )


def check_sft(config: SftConfig, origins: Origins | None = None) -> None:
    """Raises ConfigError at the first setting of a supervised run that cannot be meant."""
    rules = Rules(config, origins or Origins())
    _common(rules)
    rules.require(
        not config.run.shuffle_rewards, "run.shuffle_rewards", "false: there are no rewards"
    )
    _held_out(rules, config)
    _mixed(rules, config)
    _questions(rules, asked=False, why="supervised training asks no questions")
    history = "data.history"
    rules.require(
        rules.value(history) == HistoryConfig(), history, "the defaults: there are no rollouts"
    )
    key = "data.invalid_questions"
    rules.require(rules.value(key) == "error", key, '"error": supervised training asks none')


def _mixed(rules: Rules, config: SftConfig) -> None:
    """Data sets are mixed one way, and in no other order."""
    data, size = config.data, len(config.data.files)
    for key, numbers in (("data.mix", data.mix), ("data.mix_records", data.mix_records)):
        expected = f"none, or one number for each of the {size} entries of data.files"
        rules.require(len(numbers) in (0, size), key, expected, "data.files")
        rules.require(
            not (numbers and data.curriculum), key, "none with a curriculum", "data.curriculum"
        )
    both = bool(data.mix and data.mix_records)
    rules.require(not both, "data.mix", "none where data.mix_records is set", "data.mix_records")


def _questions(rules: Rules, *, asked: bool, why: str) -> None:
    """Questions are chosen where some are asked."""
    for key, unset in (("data.max_blind_accuracy", 1.0), ("data.question_weights", "")):
        rules.require(asked or rules.value(key) == unset, key, f"{unset!r}: {why}")


def _common(rules: Rules) -> None:
    """What both kinds of training need."""
    epochs, steps = rules.value("run.epochs"), rules.value("run.steps")
    rules.require(epochs > 0 or steps > 0, "run.epochs", "1 or more", "run.steps")
    rules.require(bool(rules.value("data.files")), "data.files", "at least one training file")
    for low, high in (
        ("media.image_min_pixels", "media.image_max_pixels"),
        ("media.video_min_frames", "media.video_max_frames"),
        ("media.tiles_min", "media.tiles_max"),
    ):
        rules.require(rules.value(low) <= rules.value(high), high, f"{low} or more", low)
    exports, keep = rules.value("run.keep_exports"), rules.value("run.keep")
    rules.require(
        exports in (-1, 0) or bool(keep and exports >= keep),
        "run.keep_exports",
        "-1, 0, or run.keep or more: a checkpoint goes with its export, not before it",
        "run.keep",
    )
    path = "policy.path"
    rules.require(bool(rules.value(path)), path, "the directory of a Hugging Face model")
    slow, precision = max(rules.value("policy.betas")), "policy.optimizer_dtype"
    rules.require(
        slow <= 0.99 or rules.value(precision) != "bfloat16",
        precision,
        '"float32" with a decay rate above 0.99: moments in bfloat16 would not decay',
        "policy.betas",
    )
    _schedule(rules)
    _adapter(rules)
    frozen = rules.value("policy.freeze")
    rules.require(len(frozen) < len(PARTS), "policy.freeze", "at least one part left to be trained")
    adapted = rules.value("policy.lora").is_on
    for part in sorted(rules.config.policy.fixed_parts & {"vision", "projector"}):
        key, other = f"policy.lr_{part}", "policy.lora.targets" if adapted else "policy.freeze"
        rules.require(rules.value(key) < 0, key, f"-1: nothing of the {part} is trained", other)


def _adapter(rules: Rules) -> None:
    """With an adapter the rest is frozen; without one nothing of it is set."""
    table = "policy.lora"
    lora: LoraConfig = rules.value(table)
    rank = f"{table}.rank"
    if not lora.is_on:
        for name in ("alpha", "targets", "dropout", "sync", "export"):
            unset = getattr(LoraConfig(), name)
            key = f"{table}.{name}"
            rules.require(getattr(lora, name) == unset, key, f"{unset!r} without an adapter", rank)
        return
    rules.require(
        not rules.value("policy.freeze"),
        "policy.freeze",
        "[] with an adapter: all but the adapter is frozen, policy.lora.targets says where it is",
        rank,
    )


def _schedule(rules: Rules) -> None:
    """A horizon is that of a schedule which decays after the warm-up, of which there is one."""
    share, warmup = rules.value("policy.warmup_share"), "policy.warmup_steps"
    rules.require(not (share and rules.value(warmup)), warmup, "0 with policy.warmup_share")
    steps = rules.value("policy.schedule_steps")
    rules.require(
        not steps or rules.value("policy.schedule") != "constant",
        "policy.schedule_steps",
        "0 with a constant learning rate",
        "policy.schedule",
    )
    rules.require(
        not steps or steps > rules.value("policy.warmup_steps"),
        "policy.schedule_steps",
        "0, or more than policy.warmup_steps",
        "policy.warmup_steps",
    )


def _rollout(rules: Rules, rollout: RolloutConfig) -> None:
    rules.require(
        rollout.n >= 2,
        "rollout.n",
        "2 or more: an advantage compares the captions of one prompt",
        "algorithm.advantage.type",
    )
    rules.require(
        rollout.temperature > 0,
        "rollout.temperature",
        "more than 0: greedy captions of one prompt are all the same",
        "rollout.n",
    )
    _fits(rules, "rollout")
    rules.require(
        not (rollout.refill and rules.value("data.curriculum")),
        "rollout.refill",
        "false with a curriculum: fresh prompts would be of a later stage",
        "data.curriculum",
    )
    tries = "rollout.refill_tries"
    rules.require(not rollout.refill or rollout.refill_tries >= 1, tries, "1 or more")


def _fits(rules: Rules, table: str) -> None:
    """What a model writes is shorter than its context."""
    tokens, length = f"{table}.max_tokens", f"{table}.max_model_len"
    rules.require(rules.value(tokens) < rules.value(length), tokens, f"less than {length}", length)


def _lengths(rules: Rules, config: Config) -> None:
    rollout = config.rollout
    rules.require(
        config.data.max_prompt_tokens + rollout.max_tokens <= rollout.max_model_len,
        "rollout.max_model_len",
        "data.max_prompt_tokens + rollout.max_tokens or more",
        "data.max_prompt_tokens",
        "rollout.max_tokens",
    )
    for key, reader in config.reward.in_process.items():
        rules.require(
            rollout.max_tokens + reader.max_tokens < reader.max_model_len,
            f"{key}.max_model_len",
            "room for the longest caption, a question and the answer",
            "rollout.max_tokens",
        )


def _reward(rules: Rules, config: Config) -> None:
    reward = config.reward
    check_readers(rules, reward)
    _beside(rules, config)
    held_out = reward.held_out_reader
    rules.require(
        not held_out.is_given
        or any(o.type == "accuracy" and o.weight for o in reward.terms.values()),
        f"reward.held_out_reader.{'path' if held_out.path else 'endpoint'}",
        "none without a term of type accuracy that counts, whose questions it answers",
    )
    for name, what in {"total": "the sum", "held_out": "the held-out reader's"}.items():
        if name in reward.terms:
            rules.fail(
                f"reward.terms.{name}.type", f"expected another name: metrics call {what} so"
            )
    weights = [f"reward.terms.{name}.weight" for name in config.reward.terms]
    if not weights:  # all those of the defaults are switched off
        off = next(key for key in types_of(config) if key.startswith("reward.terms."))
        rules.fail(f"{off}.type", "expected at least one term in reward.terms, found none")
    some = any(rules.value(key) for key in weights)
    rules.require(some, weights[0], "more than 0 for at least one term", *weights[1:])


def check_readers(rules: Rules, reward: RewardConfig) -> None:
    """Every reader is in process or at an endpoint, and its settings are those of its kind."""
    for key, reader in reward.asked.items():
        rules.require(
            bool(reader.path) != bool(reader.endpoint),
            f"{key}.path",
            f"either a model directory here or a server in {key}.endpoint, not both or neither",
            f"{key}.endpoint",
        )
    for key, reader in ({"reward.reader": reward.reader} | reward.asked).items():
        _reader(rules, key, reader)


def _beside(rules: Rules, config: Config) -> None:
    """The engines of one GPU share its memory."""
    share, others = config.rollout.gpu_memory_utilization, ["rollout.gpu_memory_utilization"]
    for key, reader in config.reward.in_process.items():
        share += reader.gpu_memory_utilization
        name = f"{key}.gpu_memory_utilization"
        rules.require(share <= 1, name, "no more than the policy's engine leaves", *others)
        others.append(name)
    for name, options in config.reward.terms.items():
        for field, part in options.engine_shares.items():
            share += part
            key = f"reward.terms.{name}.{field}"
            rules.require(share <= 1, key, "no more than the other engines leave", *others)
            others.append(key)


def check_options(rules: Rules) -> None:
    """What the options of chosen types say of themselves."""
    for its in choices(type(rules.config)):
        found = rules.value(its.key)
        by_key = (
            {its.key: found}
            if isinstance(found, Options)
            else {f"{its.key}.{name}": options for name, options in found.items()}
        )
        for key, options in by_key.items():
            for problem in options.problems():
                rules.forbid(key, problem)
            for name, expected, *others in options.conflicts():
                rules.require(False, f"{key}.{name}", expected, *(f"{key}.{o}" for o in others))


def _reader(rules: Rules, key: str, reader: ReaderConfig) -> None:
    rules.forbid(key, settings_problem(reader))
    rules.require(
        not reader.endpoint or bool(reader.model),
        f"{key}.model",
        "the model's name at the endpoint",
        f"{key}.endpoint",
    )
    rules.require(
        not reader.endpoint or reader.top_k == 0,
        f"{key}.top_k",
        "0 with an endpoint: it is for a reader in process",
        f"{key}.endpoint",
    )
    rules.require(
        not (reader.endpoint and reader.sleep),
        f"{key}.sleep",
        "false with an endpoint: it is for a reader in process",
        f"{key}.endpoint",
    )
    _fits(rules, key)


def _correction(rules: Rules, config: Config) -> None:
    """The engine's log-probs are of the tokens that it may draw, the trainer's of all."""
    for key, whole in (("rollout.top_k", 0), ("rollout.top_p", 1.0)):
        for name, options in config.algorithm.corrections.items():
            kind = f"algorithm.corrections.{name}.type"
            rules.require(
                rules.value(key) == whole or options.type == OFF,
                key,
                f'{whole}, or {kind} = "{OFF}": importance sampling compares the trainer with the '
                "engine, whose log-probs are of fewer tokens here",
                kind,
            )
        rules.require(
            rules.value(key) == whole or config.algorithm.old == "trainer",
            key,
            f'{whole}, or algorithm.old = "trainer": the engine has log-probs of fewer tokens here',
            "algorithm.old",
        )
    for name, options in config.algorithm.corrections.items():
        kind = f"algorithm.corrections.{name}.type"
        rules.require(
            config.algorithm.old == "trainer" or options.type not in ("tis", "mask"),
            "algorithm.old",
            f'"trainer", or {kind} = "{OFF}": with "engine" the ratio of the loss is already the '
            "one between trainer and engine",
            kind,
        )
    rules.require(
        not config.run.shuffle_rewards
        or config.algorithm.advantage.type not in ("gdpo", "optimize_threshold"),
        "run.shuffle_rewards",
        "false: totals are shuffled, and this advantage takes rewards by term, or their parts",
        "algorithm.advantage.type",
    )
    part = getattr(config.algorithm.advantage, "count", None)
    rules.require(
        part is None or part.partition("/")[0] in config.reward.terms,
        "algorithm.advantage.count",
        'a part "TERM/PART" of a term in reward.terms',
    )
