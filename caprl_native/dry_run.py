"""What a run will do and need, worked out before any model is loaded (`--dry-run`)."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caprl_native.config.reward import RewardConfig
from caprl_native.config.rules import Rules
from caprl_native.config.schema import Config, PolicyConfig, SftConfig
from caprl_native.config.toml import ConfigError, Origins
from caprl_native.data.fields import DataError
from caprl_native.data.mixing import epoch_sizes
from caprl_native.data.record_files import open_file
from caprl_native.distributed.launcher import replicas
from caprl_native.files import matching
from caprl_native.inference.endpoint import key_problem, urls
from caprl_native.memory_plan import GIB, Needs, by_gpu, table
from caprl_native.messages import cut, shown
from caprl_native.observe.outputs import check_outputs
from caprl_native.policy.activation_size import BYTES, activation_bytes
from caprl_native.policy.adapter_size import adapter_numbers, problem
from caprl_native.policy.families import family_of
from caprl_native.policy.model_check import ModelError, check_directory, check_reference
from caprl_native.policy.model_size import ModelSize, read_model_size

log = logging.getLogger(__name__)

REFERENCE = "algorithm.kl.reference"
UNKNOWN = "not found here, sizes unknown"


def world_size() -> int:
    """The number of ranks that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def plan(
    config: Config, world: int, origins: Origins | None = None, device: Device | None = None
) -> str:
    """Ranks, batch arithmetic, steps and memory per rank, as text, for a device (None: this one).

    Raises ConfigError where the config does not fit that many ranks, or the policy's directory is
    there but of no registered family.
    """
    check_world(config, world, origins)
    lines = [
        *_layout(config, world),
        *_steps(config, origins),
        "",
        *_memory(config, world, device or Device.here(), origins),
    ]
    return "\n".join(lines) + "\n"


def plan_sft(
    config: SftConfig, world: int, origins: Origins | None = None, device: Device | None = None
) -> str:
    """The same for a supervised run: no engine, no reader, no reference policy."""
    device, path = device or Device.here(), config.policy.path
    _check_replicas(Rules(config, origins or Origins()), config.policy.replicas, world)
    every = {"every": config.eval.every}
    policy = Config(run=config.run, data=config.data, policy=config.policy, eval=every)
    model = _size(path, "policy.path", origins, or_text=True)
    parts = {} if model is None else _supervised_bytes(policy, model, world, device)
    total = {"sum": sum(parts.values())} if parts else {}
    size = UNKNOWN if model is None else _parameters(model)
    steps = _steps(policy, origins)
    lines = [
        "plan",
        _ranks(world, config.policy.replicas),
        _row("batch", f"{config.data.batch_size} samples per step"),
        *(steps if config.eval.every else steps[:-1]),
        "",
        f"memory per rank, GiB (estimates; {device.name})",
        _row("policy", f"{path}: {size}"),
        *_adapter_lines(config.policy, model, origins),
        *(_row(name, f"{part / GIB:8.3f}") for name, part in (parts | total).items()),
    ]
    return "\n".join(lines) + "\n"


def _check_replicas(rules: Rules, asked: int, world: int) -> None:
    divides = world % replicas(asked, world) == 0
    rules.require(divides, "policy.replicas", f"a divisor of the number of ranks, {world}")


def check_world(config: Config, world: int, origins: Origins | None = None) -> None:
    """Raises ConfigError unless ranks, replicas, engines and batch divide evenly."""
    rules = Rules(config, origins or Origins())
    tensor_parallel = "rollout.tensor_parallel_size"
    rules.require(
        world % config.rollout.tensor_parallel_size == 0,
        tensor_parallel,
        f"a divisor of the number of ranks, {world}",
    )
    _check_replicas(rules, config.policy.replicas, world)
    groups = world // config.rollout.tensor_parallel_size
    rules.require(
        config.data.batch_size % groups == 0,
        "data.batch_size",
        f"a multiple of {groups}, the number of engines ({world} ranks / {tensor_parallel})",
        tensor_parallel,
    )
    share = config.data.batch_size // groups
    rules.require(
        share % config.algorithm.updates == 0,
        "algorithm.updates",
        f"a divisor of {share}, the prompts of one engine ({config.data.batch_size} / {groups})",
        "data.batch_size",
    )


def check_node(config: Config, origins: Origins | None = None) -> None:
    """Raises ConfigError unless no engine spans two nodes, as far as a launcher tells."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    Rules(config, origins or Origins()).require(
        local % config.rollout.tensor_parallel_size == 0,
        "rollout.tensor_parallel_size",
        f"a divisor of the number of ranks on a node, {local} (an engine does not span nodes)",
    )


def check_machine(config: Config, origins: Origins | None = None) -> None:
    """Raises ConfigError unless the models and keys that a run needs are here, and its folder can
    be written."""
    rules = Rules(config, origins or Origins())
    check_outputs(rules)
    kl = config.algorithm.kl
    models = {"policy.path": config.policy.path}
    models |= {f"{key}.path": reader.path for key, reader in config.reward.in_process.items()}
    if kl.weight and kl.reference:
        models[REFERENCE] = kl.reference
    check_models(models, origins)
    check_keys(rules, config.reward)


def check_keys(rules: Rules, reward: RewardConfig) -> None:
    """Raises ConfigError where a key of a reader, or what a term needs of this machine, is not
    here."""
    for key, reader in reward.asked.items():
        rules.forbid(key, key_problem(reader))
    for name, options in reward.terms.items():
        for lack in options.lacks() if options.weight else ():
            rules.forbid(f"reward.terms.{name}", lack)


def check_models(models: dict[str, str], origins: Origins | None = None) -> None:
    """Raises ConfigError unless these directories, by key, hold models that can be loaded here."""
    rules = Rules(None, origins or Origins())
    for key, path in models.items():
        if not os.path.isfile(os.path.join(path, "config.json")):
            rules.fail(key, f"expected a model directory with a config.json, found {shown(path)}")
        try:
            check_directory(path, processor=not key.startswith("reward."))
            if key == REFERENCE:
                check_reference(models["policy.path"], path)
        except ModelError as error:
            rules.fail(key, f"expected a model that can be loaded: {error}")


def check_sft_machine(config: SftConfig, origins: Origins | None = None) -> None:
    """The same for a supervised run."""
    rules = Rules(config, origins or Origins())
    check_outputs(rules)
    check_models({"policy.path": config.policy.path}, origins)


def _row(name: str, text: str) -> str:
    return f"  {name:<22}{text}"


def _ranks(world: int, asked: int) -> str:
    copies = replicas(asked, world)
    return _row("ranks", f"{world}: weights sharded over {world // copies}, {copies} replica(s)")


def _layout(config: Config, world: int) -> list[str]:
    tensor_parallel = config.rollout.tensor_parallel_size
    groups = world // tensor_parallel
    prompts, n = config.data.batch_size, config.rollout.n
    each = prompts // groups
    return [
        "plan",
        _ranks(world, config.policy.replicas),
        _row("engines", f"{groups}, each on {tensor_parallel} rank(s)"),
        _row("batch", f"{prompts} prompts x {n} captions = {prompts * n} captions per step"),
        _row("per engine", f"{each} prompts, {each * n} captions"),
        _row("optimizer steps", f"{config.algorithm.updates} per batch"),
    ]


# --- data -------------------------------------------------------------------------------------


def count_rows(file: str | Path) -> int | None:
    """Records of a data file; None if it is not there or not readable as such."""
    if not os.path.isfile(file):
        return None
    try:
        return len(open_file(os.fspath(file)))
    except DataError:
        return None


def _steps(config: Config, origins: Origins | None) -> list[str]:
    entries = [matching(name) or [name] for name in config.data.files]
    counts = {file: count_rows(file) for files in entries for file in files}
    lines = [
        _row("data", f"{cut(file)}: " + (UNKNOWN if rows is None else f"{rows:,} records"))
        for file, rows in counts.items()
    ]
    known = [rows for rows in counts.values() if rows is not None]
    rows = sum(known) if len(known) == len(counts) else None
    share = config.data.hold_out
    if share:
        told = f" ({round(share * rows):,} records)" if rows is not None else ""
        lines.append(_row("held out", f"{share:.2%}{told}, by media; not trained on"))
        rows = None if rows is None else rows - round(share * rows)
    if rows is not None:
        sizes = [sum(counts[file] or 0 for file in files) for files in entries]
        mixed = epoch_sizes(sizes, config.data)
        rows = rows if mixed is None else sum(mixed)
    text = _step_count(config, rows, origins)
    every = config.run.save_every
    saves = f"every {every} steps and at the end" if every else "at the end"
    evals = f"every {config.eval.every} steps" if config.eval.every else "never"
    return [*lines, _row("steps", text), _row("checkpoints", saves), _row("evaluation", evals)]


def _step_count(config: Config, rows: int | None, origins: Origins | None) -> str:
    """How many steps there will be; an epoch's records that do not fill a batch are left out.

    `run.steps`, where it is given, is the number, whatever `run.epochs` says.
    """
    epochs, steps = config.run.epochs, config.run.steps
    if rows is None:
        return f"{steps:,}" if steps else f"{epochs} epochs of unknown length"
    epoch = rows // config.data.batch_size
    if config.data.curriculum:  # a stage ends with a batch, however full
        least = -(-rows // config.data.batch_size)
        epochal = f"{least * epochs:,} or more: at least {least:,} per epoch x {epochs}"
        return f"{steps:,}" if steps else epochal
    Rules(config, origins or Origins()).require(
        epoch > 0, "data.batch_size", f"at most the {rows} records of data.files", "data.files"
    )
    if steps:
        return f"{steps:,}: {steps / epoch:.2f} epochs of {epoch:,}"
    return f"{epoch * epochs:,}: {epoch:,} per epoch x {epochs}"


# --- memory -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """Where the ranks run: memory of one accelerator in bytes, 0 on a CPU."""

    name: str
    memory: int

    @classmethod
    def here(cls) -> Device:
        """The first GPU that is visible, else the CPU. Asks the driver's tool: torch takes long."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        tool = shutil.which("nvidia-smi")
        if not tool or not visible or visible.startswith("-"):
            return cls("CPU", 0)
        query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        asked = subprocess.run([*query, "-i", visible], capture_output=True, text=True, timeout=60)
        name, _, mebibytes = asked.stdout.strip().rpartition(", ")
        if asked.returncode or not mebibytes.isdecimal():
            return cls("no GPU that nvidia-smi tells the memory of", 0)
        return cls(name, int(mebibytes) * 2**20)

    @classmethod
    def of(cls, gib: float) -> Device:
        """A GPU with that much memory, or the CPU (0)."""
        return cls(f"GPUs of {gib:g} GiB", int(gib * GIB)) if gib else cls("CPU", 0)


def _memory(config: Config, world: int, device: Device, origins: Origins | None) -> list[str]:
    policy = _size(config.policy.path, "policy.path", origins)
    sizes = {
        key: _size(reader.path, f"{key}.path", origins)
        for key, reader in config.reward.in_process.items()
    }
    lines = [
        f"memory per rank, GiB (estimates; {device.name})",
        _row("policy", _counted(config.policy.path, policy)),
        *_adapter_lines(config.policy, policy, origins),
        *_reader_lines(config, sizes),
    ]
    if policy is None:
        return lines
    reader = sizes.pop("reward.reader", None)
    needs = needs_of(config, policy, reader, world, sizes)
    return [*lines, *table(needs, device.memory, _row), "", *by_gpu(needs, _row)]


def needs_of(
    config: Config,
    policy: ModelSize,
    reader: ModelSize | None,
    world: int,
    further_readers: Mapping[str, ModelSize | None] | None = None,
) -> Needs:
    """What the memory of a run with these models on so many ranks follows from."""
    family = family_of(config.policy.path, or_text=True)
    return Needs(
        config,
        policy,
        _trainable(config, policy),
        activation_bytes(config.policy, policy, family),
        {"reward.reader": reader, **(further_readers or {})},
        world,
    )


def _supervised_bytes(
    config: Config, model: ModelSize, world: int, device: Device
) -> dict[str, float]:
    """What training takes where no engine is beside it."""
    needs = needs_of(config, model, None, world)
    return needs.kept(device.memory) | needs.passing()


def _counted(path: str, model: ModelSize | None) -> str:
    return f"{path}: {UNKNOWN if model is None else _parameters(model)}"


def _parameters(model: ModelSize) -> str:
    met = f", {model.active:,} of them for each token" if model.active < model.total else ""
    return f"{model.total:,} parameters{met}"


def _adapter_lines(
    policy: PolicyConfig, model: ModelSize | None, origins: Origins | None
) -> list[str]:
    """How large the adapter is, where there is one. Raises ConfigError where its targets are not
    the model's."""
    if not policy.lora.is_on or model is None:
        return []
    family = family_of(policy.path, or_text=True)
    if found := problem(model, family, policy.lora):
        Rules(None, origins or Origins()).fail("policy.lora.targets", found)
    numbers = sum(adapter_numbers(model, family, policy.lora).values())
    lines = [_row("adapter", f"{numbers:,} parameters, rank {policy.lora.rank}")]
    if policy.lora.sync == "adapter":
        sent = numbers * BYTES[policy.dtype] / 2**20
        share = f"{numbers / model.total:.2%} of a full one"
        lines.append(_row("", f"a weight sync sends {sent:,.1f} MiB, {share}"))
    return lines


def _reader_lines(config: Config, sizes: Mapping[str, ModelSize | None]) -> list[str]:
    if not config.reward.asked:
        return [_row("reader", "none: no term of the reward asks one")]
    return [
        _row(
            "held-out reader" if key == "reward.held_out_reader" else "reader",
            _counted(reader.path, sizes[key])
            if key in sizes
            else f"at {' and '.join(urls(reader.endpoint))}: no memory here",
        )
        for key, reader in config.reward.asked.items()
    ]


def _size(
    path: str, key: str, origins: Origins | None, *, or_text: bool = False
) -> ModelSize | None:
    try:
        if key == "policy.path" and (Path(path) / "config.json").is_file():
            family_of(path, or_text=or_text)
        return read_model_size(path)
    except ValueError as error:
        where = (origins or Origins()).of(key)
        raise ConfigError(f"{where}: {key}: expected a model that can be read: {error}") from error


def _trainable(config: Config, model: ModelSize) -> int:
    """Parameters that are not frozen; names of no known part count as trainable."""
    family = family_of(config.policy.path, or_text=True)
    if config.policy.lora.is_on:
        return sum(adapter_numbers(model, family, config.policy.lora).values())

    def frozen(name: str) -> bool:
        try:
            return family.part_of(name) in config.policy.freeze
        except ValueError:
            return False

    return sum(count for name, count in model.parameters.items() if not frozen(name))
