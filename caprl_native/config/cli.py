"""The command lines of the programs: files, overrides, `--help`, `--dry-run`.

What cannot be used raises `ConfigError`, which the programs turn into one line on stderr and exit
code 2.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel

from caprl_native.config.load import dump, help_text, load, load_plugins, load_with_origins
from caprl_native.config.rules import check, check_sft
from caprl_native.config.schema import Config, SftConfig
from caprl_native.config.toml import (
    COMMAND_LINE,
    CommandLine,
    ConfigError,
    Origins,
    Source,
    files_of,
)
from caprl_native.messages import shown
from caprl_native.redact import redact

__all__ = [
    "CliArgs",
    "ConfigError",
    "Origins",
    "check",
    "check_sft",
    "dump",
    "exit_with_error",
    "help_text",
    "load",
    "load_with_origins",
    "parse_cli",
    "print_once",
    "warn_once",
]

T = TypeVar("T", bound=BaseModel)
_CHECKS: dict[Any, Callable[[Any, Origins], None]] = {Config: check, SftConfig: check_sft}

_USAGE = """\
usage: torchrun --nproc-per-node N -m {prog} --config FILE ... [--table.key value ...]

  --config FILE ...   TOML files, overlaid left to right; a bare name is looked up in the current
                      folder, then in train_configs/; a file is laid over those that it names in
                      `base = "FILE"`
  --plugins NAME ...  modules or Python files that add types (same as the setting `plugins`)
  --resume [STEP]     go on from the latest checkpoint, or from that step (same as --run.resume)
  --dry-run           print the resolved config and the plan, and stop
{plans}  --help              print this and stop
  --table.key value   set one value; also --table.key=value. Lists as '["a", "b"]'

"""

_PLANS = """\
  --ranks N           of a dry run: plan for this many ranks, not for those of torchrun
  --gpu-memory GIB    of a dry run: plan for GPUs of that much memory; 0: for a CPU
"""


@dataclasses.dataclass(frozen=True)
class CliArgs(Generic[T]):
    """What a command line asks for: a checked config, and where its values come from."""

    config: T
    dry_run: bool
    files: tuple[str, ...]
    origins: Origins
    ranks: int | None = None  # of the machine that a dry run plans for; None: as it is started here
    gpu_memory: float | None = None  # GiB of each of its GPUs; None: of those here


def parse_cli(
    schema: type[T],
    argv: Sequence[str],
    prog: str,
    needs_file: bool = True,
    usage: str = _USAGE,
    plans: bool = False,
) -> CliArgs[T]:
    """The command line of `prog`, without its name. Exits: 0 after --help, 2 on a ConfigError.

    `usage` opens what --help prints, with `{prog}` in it. `plans`: a dry run takes the ranks and
    the GPUs that it plans for.
    """
    try:
        if "--help" in argv or "-h" in argv:
            words = [word for word in argv if word not in ("--help", "-h")]
            _help(schema, words, usage.format(prog=prog, plans=_PLANS if plans else ""))
        words, ranks, gpu_memory = _machine(argv) if plans else (list(argv), None, None)
        files, overrides, dry_run = _split(words)
        if needs_file and not files:
            raise ConfigError(f"{COMMAND_LINE}: --config: expected a TOML file; see --help")
        config, origins = load_with_origins(schema, files, overrides)
        if schema in _CHECKS:
            _CHECKS[schema](config, origins)
    except ConfigError as error:
        exit_with_error(error)
    return CliArgs(config, dry_run, tuple(files), origins, ranks, gpu_memory)


def _help(schema: type[BaseModel], argv: Sequence[str], usage: str) -> NoReturn:
    """Prints every setting, those included that plugins of the command line's files bring."""
    files, overrides, _ = _split(argv)
    sources: list[Source] = [*files_of(files), CommandLine(overrides)]
    schema = load_plugins(schema, sources)
    if _speaks():
        sys.stdout.write(usage + help_text(schema))
    raise SystemExit(0)


def _machine(argv: Sequence[str]) -> tuple[list[str], int | None, float | None]:
    """The words without --ranks and --gpu-memory, and the values of these."""
    found: dict[str, str] = {}
    words, rest = [], list(argv)
    while rest:
        name, equals, value = rest[0].partition("=")
        if name not in ("--ranks", "--gpu-memory"):
            words.append(rest.pop(0))
            continue
        rest.pop(0)
        found[name] = value if equals else rest.pop(0) if rest else ""
        if "--dry-run" not in argv:
            raise ConfigError(f"{COMMAND_LINE}: {name}: is for --dry-run; torchrun starts ranks")
    ranks = _number(found, "--ranks", "a whole number, 1 or more", int, 1)
    memory = _number(found, "--gpu-memory", "GiB of each GPU; 0: none", float, 0)
    return words, ranks, memory


N = TypeVar("N", int, float)


def _number(
    found: dict[str, str], name: str, expected: str, kind: Callable[[str], N], least: int
) -> N | None:
    if name not in found:
        return None
    try:
        value = kind(found[name])
        if not least <= value < 2**31:
            raise ValueError
    except ValueError:
        given = shown(found[name])
        raise ConfigError(f"{COMMAND_LINE}: {name}: expected {expected}, found {given}") from None
    return value


def _split(argv: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """Config files, override tokens, and whether it is a dry run."""
    files: list[str] = []
    overrides: list[str] = []
    dry_run = False
    rest = list(argv)
    while rest:
        name, has_value, value = rest.pop(0).partition("=")
        values = [value] if has_value else []
        if name == "--dry-run":
            dry_run = True
        elif name == "--config":
            while not has_value and rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            files += values
        elif name == "--plugins" and not has_value and rest and not rest[0].startswith("["):
            while rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            overrides.append(f"--plugins={json.dumps(values)}")
        elif name == "--resume":
            if not has_value and rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            overrides.append(f"--run.resume={(values or ['latest'])[0]}")
        else:
            overrides.append(name + has_value + value)
            if not has_value and rest and not rest[0].startswith("--"):
                overrides.append(rest.pop(0))
    return files, overrides, dry_run


def _speaks() -> bool:
    """Of the processes that torchrun started on a machine, one prints."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def print_once(*texts: str) -> None:
    """Prints the texts, a blank line between; under torchrun from one rank per machine."""
    if _speaks():
        print(redact("\n".join(texts)))


def warn_once(text: str) -> None:
    """One line on stderr; under torchrun from one rank per machine."""
    if _speaks():
        sys.stderr.write(f"warning: {redact(text)}\n")


def exit_with_error(error: ConfigError) -> NoReturn:
    """One line on stderr, then exit code 2; under torchrun from one rank per machine."""
    if _speaks():
        sys.stderr.write(f"error: {redact(str(error))}\n")
    else:
        time.sleep(10)  # torchrun kills all ranks when one exits: let the speaking one be the first
    raise SystemExit(error.exit_code)
