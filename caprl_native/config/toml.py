"""TOML text to flat, typed settings that know where they come from.

The schema is a tree of dataclasses; here it is seen as a flat map from dotted keys ("policy.lr") to
fields. `config_io.py` builds and writes whole configs from these pieces.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli

from caprl_native.files import user_path
from caprl_native.messages import cut, shown

_LARGEST_FILE = 2**20  # bytes of a config file; that of the longest recipe has 3,000
_LONGEST_MESSAGE = 2000  # characters; what it quotes is cut before
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # of a text: no file system and no tokenizer takes it

RECIPES = Path(__file__).resolve().parents[2] / "train_configs"
COMMAND_LINE = "command line"


class ConfigError(Exception):
    """A setting that cannot be used: where it stands, its dotted key, and what was expected.

    The message is one printable line, whatever was found in a file.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(cut(message, _LONGEST_MESSAGE))


class Origins(dict[str, str]):
    """Dotted key -> where its value was set: "file:line" or "command line"."""

    def of(self, key: str) -> str:
        """The place of a key, or of the table that holds it; "default" if it was never set."""
        while key:
            if key in self:
                return self[key]
            key = key.rpartition(".")[0]
        return "default"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting of the schema."""

    key: str
    type: Any
    default: Any
    help: str
    is_path: bool = False  # of a file or a folder, or a list of them


def leaves(schema: type, prefix: str = "") -> Iterator[Leaf]:
    """All settings of a config dataclass, plain fields of a table before its nested tables."""
    hints = typing.get_type_hints(schema)
    fields = dataclasses.fields(schema)
    for f in (f for f in fields if not dataclasses.is_dataclass(hints[f.name])):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        meta = f.metadata
        is_path = meta.get("path", False)
        yield Leaf(prefix + f.name, hints[f.name], default, meta.get("help", ""), is_path)
    for f in (f for f in fields if dataclasses.is_dataclass(hints[f.name])):
        yield from leaves(hints[f.name], f"{prefix}{f.name}.")


def expected(kind: Any) -> str:
    """A field's type in the words of an error message."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{v}"' for v in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return {str: "a list of texts", float: "a list of numbers"}[typing.get_args(kind)[0]]
    words = {bool: "true or false", int: "a whole number", float: "a finite number"}
    return words.get(kind, "a text in quotes")


def typed(kind: Any, value: Any) -> Any:
    """The value as the field holds it (integers pass for floats); ValueError if it does not fit."""
    if typing.get_origin(kind) is Literal:
        fits = isinstance(value, str) and value in typing.get_args(kind)
    elif typing.get_origin(kind) is list:
        fits = isinstance(value, list)
        value = [typed(typing.get_args(kind)[0], v) for v in value] if fits else value
    elif kind is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = fits and abs(value) <= sys.float_info.max  # nan and larger integers are not
        value = float(value) if fits else value
    elif kind is int:
        fits = type(value) is int and -(2**63) <= value < 2**63  # not isinstance: True is an int
    else:
        fits = type(value) is kind and not (kind is str and _UNUSABLE.search(value))
    if not fits:
        raise ValueError
    return value


def settled(where: str, leaf: Leaf, value: Any) -> Any:
    """The value of a setting that fits its type: in paths, `~` is expanded.

    Raises ConfigError for a path that no file system takes.
    """
    if not leaf.is_path:
        return value
    if isinstance(value, list):
        return [settled(where, leaf, item) for item in value]
    path = user_path(value)
    longest = max((len(os.fsencode(name)) for name in path.split("/")), default=0)
    if longest > 255 or len(os.fsencode(path)) > 4000:
        raise ConfigError(
            f"{where}: {leaf.key}: expected a path of at most 4,000 bytes, 255 in each of its "
            f"names, found {shown(value)}"
        )
    return path


def nearest(key: str, known: Mapping[str, Leaf]) -> str:
    """The valid key that a mistyped one most likely stands for."""
    table, _, name = key[:100].replace("-", "_").rpartition(".")
    words = name.replace("_", " ").lower()

    def likeness(candidate: str) -> float:
        its_table, _, its_name = candidate.rpartition(".")
        score = difflib.SequenceMatcher(None, name, its_name).ratio()
        if len(words) > 4 and words in known[candidate].help.lower():
            score = max(score, 0.7)  # learning_rate: "Peak learning rate of AdamW."
        return score + 0.3 * difflib.SequenceMatcher(None, table, its_table).ratio()

    return max(known, key=likeness)


def unknown_key(where: str, key: str, known: Mapping[str, Leaf]) -> ConfigError:
    """The error for a key that the schema does not have."""
    return ConfigError(f'{where}: {cut(key)}: unknown key; did you mean "{nearest(key, known)}"?')


def wrong_type(where: str, leaf: Leaf, value: Any) -> ConfigError:
    """The error for a value that does not fit its field."""
    found = str(value).lower() if isinstance(value, bool) else shown(value)
    return ConfigError(f"{where}: {leaf.key}: expected {expected(leaf.type)}, found {found}")


# --- files ------------------------------------------------------------------------------------


def locate(name: str | Path) -> Path:
    """The config file of that name; a bare name is looked up here, then among the recipes."""
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() or len(path.parts) > 1 else [path, RECIPES / path]
    for place in places:
        if os.path.isfile(place):  # unlike Path.is_file, also where the name is too long
            return place
    looked = " or ".join(str(Path.cwd() / place) for place in places)
    raise ConfigError(
        f"{cut(str(name))}: expected a config file at {cut(looked, 500)}; there is none"
    )


def read_file(path: Path, known: Mapping[str, Leaf]) -> tuple[dict[str, Any], Origins]:
    """The settings of one TOML file, flat and typed, and the line of each."""
    try:
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise ConfigError(f"{path}: is no config file: it has {size:,} bytes")
        text = path.read_bytes().decode("utf-8")
        document = tomli.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    except tomli.TOMLDecodeError as error:
        raise _syntax_error(path, text, error) from error
    except RecursionError as error:
        raise ConfigError(
            f"{path}: not valid TOML: lists or tables are nested too deeply"
        ) from error
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise ConfigError(f"{path}: not valid TOML: a number has thousands of digits") from error
    lines = key_lines(text)
    values: dict[str, Any] = {}
    origins = Origins()
    for key, value in _flat(document, known):
        where = f"{path}:{_line_of(key, lines)}"
        values[key] = _checked(where, key, value, known)
        origins[key] = where
    return values, origins


def _syntax_error(path: Path, text: str, error: tomli.TOMLDecodeError) -> ConfigError:
    found = re.search(r"\(at line (\d+)", str(error))
    line = int(found[1]) if found else max(1, len(text.splitlines()))
    reason = re.sub(r"\s*\(at .*\)$", "", str(error))
    return ConfigError(
        f"{path}:{line}: not valid TOML: {reason}; expected: key = value, or [table]"
    )


def _flat(table: dict, known: Mapping[str, Leaf], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) down to the schema's fields; unknown tables come out as they are."""
    for name, value in table.items():
        key = prefix + name
        is_table = any(k.startswith(key + ".") for k in known)
        if is_table and isinstance(value, dict):
            yield from _flat(value, known, key + ".")
        else:
            yield key, value


def _checked(where: str, key: str, value: Any, known: Mapping[str, Leaf]) -> Any:
    if key not in known:
        if any(k.startswith(key + ".") for k in known):
            raise ConfigError(f"{where}: {key}: expected a table, [{key}], found {shown(value)}")
        if isinstance(value, dict) and value:  # [polcy] or lr.x = 1: name the key inside
            key = f"{key}.{next(iter(value))}"
        raise unknown_key(where, key, known)
    try:
        value = typed(known[key].type, value)
    except ValueError:
        raise wrong_type(where, known[key], value) from None
    return settled(where, known[key], value)


# --- lines ------------------------------------------------------------------------------------

_PART = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]")
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_TOKEN = re.compile(  # strings, comments and brackets: all that decides where a value ends
    r'"""(?:[^\\]|\\.)*?"""|'
    + r"'''.*?'''|"
    + r'"(?:[^"\\\n]|\\.)*"|'
    + r"'[^'\n]*'|#[^\n]*|[\[\]{}]|\n",
    re.DOTALL,
)


def key_lines(text: str) -> dict[str, int]:
    """Dotted key -> the line (from 1) where it is set, tables included. `text` is valid TOML.

    tomli gives values without positions. A key or a header starts a line outside of any value;
    keys inside inline tables are left to the line of their table.
    """
    lines: dict[str, int] = {}
    table = ""
    position, line = 0, 1
    while position < len(text):
        if header := _HEADER.match(text, position):
            table = _plain(header[1]) + "."
            line_of_match = line + text.count("\n", position, header.start(1))
            lines.setdefault(table[:-1], line_of_match)
            end = _end_of_line(text, header.end())
        elif key := _KEY.match(text, position):
            line_of_match = line + text.count("\n", position, key.start(1))
            lines[table + _plain(key[1])] = line_of_match
            end = _end_of_value(text, key.end())
        else:
            end = _end_of_line(text, position)
        line += text.count("\n", position, end)
        position = end
    return lines


def _plain(dotted: str) -> str:
    return ".".join(p.strip("\"'") for p in re.findall(_PART, dotted))


def _end_of_line(text: str, position: int) -> int:
    found = text.find("\n", position)
    return len(text) if found < 0 else found + 1


def _end_of_value(text: str, position: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(text, position):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        elif token[0] == "\n" and depth == 0:
            return token.end()
    return len(text)


def _line_of(key: str, lines: Mapping[str, int]) -> int:
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 1)


# --- command line -----------------------------------------------------------------------------


def read_overrides(tokens: list[str], known: Mapping[str, Leaf]) -> dict[str, Any]:
    """The settings in `--table.key value` and `--table.key=value`; the last of a key wins."""
    values: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise ConfigError(f"{COMMAND_LINE}: {shown(token)}: expected --table.key value")
        key, has_value, text = token[2:].partition("=")
        if key not in known:
            raise unknown_key(COMMAND_LINE, key, known)
        if not has_value:
            if not rest or rest[0].startswith("--"):
                kind = expected(known[key].type)
                raise ConfigError(f"{COMMAND_LINE}: {key}: expected {kind}, found no value")
            text = rest.pop(0)
        values[key] = _from_text(known[key], text)
    return values


def _from_text(leaf: Leaf, text: str) -> Any:
    """A command-line value: TOML; for texts and single choices also the bare word."""
    try:
        value = typed(leaf.type, tomli.loads(f"value = {text}")["value"])
    except (ValueError, KeyError, RecursionError):  # no TOML, or another type's
        try:
            value = typed(leaf.type, text)
        except ValueError:
            raise wrong_type(COMMAND_LINE, leaf, text) from None
    return settled(COMMAND_LINE, leaf, value)
