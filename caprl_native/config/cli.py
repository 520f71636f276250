"""Config files and the command line to a config, and back.

    load(Config, ["video.toml", "mine.toml"], ["--policy.lr", "1e-6"])

Files overlay left to right, then the command line. What cannot be used raises `ConfigError`, which
the programs turn into one line on stderr and exit code 2.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from caprl_native.config.rules import check, check_sft
from caprl_native.config.schema import Config, SftConfig
from caprl_native.config.toml import (
    COMMAND_LINE,
    ConfigError,
    Leaf,
    Origins,
    expected,
    leaves,
    locate,
    read_file,
    read_overrides,
)
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
]

T = TypeVar("T")


def load(schema: type[T], files: Sequence[str | Path], overrides: Sequence[str] = ()) -> T:
    """The config that files and overrides give; combinations of values are left to `check`.

    Raises ConfigError: a missing file, TOML that does not parse, an unknown key, a wrong type.
    """
    return load_with_origins(schema, files, overrides)[0]


def load_with_origins(
    schema: type[T], files: Sequence[str | Path], overrides: Sequence[str] = ()
) -> tuple[T, Origins]:
    """Like `load`, with the place where each value was set."""
    known = {leaf.key: leaf for leaf in leaves(schema)}
    values: dict[str, Any] = {}
    origins = Origins()
    for name in files:
        file_values, file_origins = read_file(locate(name), known)
        values.update(file_values)
        origins.update(file_origins)
    from_command_line = read_overrides(list(overrides), known)
    values.update(from_command_line)
    origins.update(dict.fromkeys(from_command_line, COMMAND_LINE))
    return _build(schema, values), origins


def _build(schema: type[T], values: dict[str, Any], prefix: str = "") -> T:
    given: dict[str, Any] = {}
    hints = typing.get_type_hints(schema)
    for f in dataclasses.fields(schema):  # type: ignore[arg-type]
        key = prefix + f.name
        if dataclasses.is_dataclass(hints[f.name]):
            given[f.name] = _build(hints[f.name], values, key + ".")
        elif key in values:
            given[f.name] = values[key]
    return schema(**given)


def _tables(schema: type) -> dict[str, list[Leaf]]:
    """Table name -> its settings, in the order of the schema."""
    tables: dict[str, list[Leaf]] = {}
    for leaf in leaves(schema):
        tables.setdefault(leaf.key.rpartition(".")[0], []).append(leaf)
    return tables


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # a JSON string is a TOML basic string, but for a bare DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)


def _get(config: Any, key: str) -> Any:
    for name in key.split(".") if key else ():
        config = getattr(config, name)
    return config


def dump(config: Any, origins: Origins | None = None) -> str:
    """The whole config as TOML, which loads as an equal one; origins become comments."""
    blocks = []
    for table, settings in _tables(type(config)).items():
        lines = [f"[{table}]"] if table else []
        for leaf in settings:
            line = f"{leaf.key.rpartition('.')[2]} = {_toml(_get(config, leaf.key))}"
            place = origins.of(leaf.key) if origins is not None else "default"
            lines.append(line if place == "default" else f"{line}  # {place}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def help_text(schema: type) -> str:
    """Every setting by table: name, type, default, meaning."""
    blocks = []
    for table, settings in _tables(schema).items():
        lines = [f"[{table}]"]
        for leaf in settings:
            kind = expected(leaf.type).removesuffix(" in quotes")
            lines.append(f"  --{leaf.key}  ({kind}; default {_toml(leaf.default)})")
            lines.append(f"      {leaf.help}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


# --- command line -----------------------------------------------------------------------------

_CHECKS = {Config: check, SftConfig: check_sft}

_USAGE = """\
usage: torchrun --nproc-per-node N -m {prog} --config FILE ... [--table.key value ...]

  --config FILE ...   TOML files, overlaid left to right; a bare name is looked up in the current
                      folder, then in train_configs/
  --resume [STEP]     go on from the latest checkpoint, or from that step (same as --run.resume)
  --dry-run           print the resolved config and the plan, and stop
  --help              print this and stop
  --table.key value   set one value; also --table.key=value. Lists as '["a", "b"]'

"""


@dataclasses.dataclass(frozen=True)
class CliArgs(Generic[T]):
    """What a command line asks for: a checked config, and where its values come from."""

    config: T
    dry_run: bool
    files: tuple[str, ...]
    origins: Origins


def parse_cli(
    schema: type[T],
    argv: Sequence[str],
    prog: str,
    needs_file: bool = True,
    usage: str = _USAGE,
) -> CliArgs[T]:
    """The command line of `prog`, without its name. Exits: 0 after --help, 2 on a ConfigError.

    `usage` opens what --help prints, with `{prog}` in it.
    """
    if "--help" in argv or "-h" in argv:
        if _speaks():
            sys.stdout.write(usage.format(prog=prog) + help_text(schema))
        raise SystemExit(0)
    try:
        files, overrides, dry_run = _split(argv)
        if needs_file and not files:
            raise ConfigError(f"{COMMAND_LINE}: --config: expected a TOML file; see --help")
        config, origins = load_with_origins(schema, files, overrides)
        expand_home(config)
        if schema in _CHECKS:
            _CHECKS[schema](config, origins)
    except ConfigError as error:
        exit_with_error(error)
    return CliArgs(config, dry_run, tuple(files), origins)


# Last names of the settings that are paths.
_PATHS = ["dir", "path", "files", "eval_files", "media_root", "reference", "subtitles", "compare"]


def expand_home(config: Any) -> None:
    """Puts the home folder in place of `~` in every setting that is a path."""
    for leaf in leaves(type(config)):
        table, _, name = leaf.key.rpartition(".")
        value = _get(config, leaf.key)
        if name in _PATHS and isinstance(value, str):
            setattr(_get(config, table), name, os.path.expanduser(value))
        elif name in _PATHS and isinstance(value, list):
            setattr(_get(config, table), name, [os.path.expanduser(v) for v in value])


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


def exit_with_error(error: ConfigError) -> typing.NoReturn:
    """One line on stderr, then exit code 2; under torchrun from one rank per machine."""
    if _speaks():
        sys.stderr.write(f"error: {redact(str(error))}\n")
    else:
        time.sleep(10)  # torchrun kills all ranks when one exits: let the speaking one be the first
    raise SystemExit(error.exit_code)
