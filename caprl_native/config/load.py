"""Config files and overrides to a config, and back.

    load(Config, ["video.toml", "mine.toml"], ["--policy.lr", "1e-6"])

Files overlay left to right, each over its bases, then the command line. A source that gives a
table another type starts that table over: what an earlier one set there was meant for the other
type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from caprl_native.bounds import Unexpected, bounds
from caprl_native.config.fields import OFF, Named, OneOf, choice, tables
from caprl_native.config.toml import (
    CommandLine,
    ConfigError,
    Known,
    Origins,
    Source,
    files_of,
)
from caprl_native.config.tree import Choice, Leaf, choices, expected, leaves, types_of, value_at
from caprl_native.messages import shown
from caprl_native.redact import redact
from caprl_native.registry import load_plugin

T = TypeVar("T", bound=BaseModel)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a table that a user names; metrics get it, too
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def load(schema: type[T], files: Sequence[str | Path], overrides: Sequence[str] = ()) -> T:
    """The config that files and overrides give; combinations of values are left to `check`.

    Raises ConfigError: a missing file, TOML that does not parse, an unknown key, a wrong type, a
    value out of bounds, a plugin that cannot be imported.
    """
    return load_with_origins(schema, files, overrides)[0]


def load_with_origins(
    schema: type[T], files: Sequence[str | Path], overrides: Sequence[str] = ()
) -> tuple[T, Origins]:
    """Like `load`, with the place where each value was set."""
    sources: list[Source] = [*files_of(files), CommandLine(overrides)]
    schema = load_plugins(schema, sources)
    merged = _Merged(schema)
    for source in sources:
        merged.add(source)
    return merged.built(schema), merged.origins


def load_plugins(schema: type[T], sources: Sequence[Source]) -> type[T]:
    """Imports the modules and files that the last source to name any has under `plugins`.

    Returns the schema with what they have registered.
    """
    for leaf in (leaf for leaf in leaves(schema) if leaf.key == "plugins"):
        given = [(source, source.given(leaf)) for source in sources]
        for source, names in [pair for pair in given if pair[1] is not None][-1:]:
            for name in names:
                try:
                    load_plugin(name)
                except (ImportError, SyntaxError, ValueError) as error:
                    where = source.where("plugins")
                    raise ConfigError(f"{where}: plugins: {shown(name)}: {error}") from error
    grown = getattr(schema, "grown", None)
    return schema if grown is None else grown()


class _Merged:
    """Values, their places and the types of tables, as one source after another is added."""

    def __init__(self, schema: type[BaseModel]) -> None:
        self.schema, self.origins = schema, Origins()
        self.values: dict[str, Any] = {}
        self.types: dict[str, str] = {}
        self.choices = list(choices(schema))

    def add(self, source: Source) -> None:
        """Takes a source's settings over those of the sources before it."""
        for its in self.choices:
            for key in _tables_of(its, source):
                self._choose(its, key, source)
        known = Known(
            {leaf.key: leaf for leaf in leaves(self.schema, self.types)},
            getattr(self.schema, "moved", {}),
            {its.key for its in self.choices if isinstance(its.mark, Named)},
            self._foreign,
        )
        for key, value in source.settings(known):
            self.values[key], self.origins[key] = value, source.where(key)

    def _choose(self, its: Choice, key: str, source: Source) -> None:
        """Settles the type of the table under `key`; a new type drops what it held."""
        before = self.types.get(key) or its.default_type(key)
        leaf = Leaf(f"{key}.type", _literal(its), before, its.help)
        kind = source.given(leaf) or before
        if kind is None:
            raise ConfigError(
                f"{source.where(key)}: {leaf.key}: expected {expected(leaf.type)}, found none; it "
                f"may be left out where the table's name is one of them; a file with a type of "
                "your own is named in plugins"
            )
        if kind != before:
            for old in [k for k in self.values if k.startswith(f"{key}.")]:
                del self.values[old], self.origins[old]
        self.types[key] = kind

    def _foreign(self, key: str) -> str:
        """What is wrong with a key of a table of a chosen type that other types have."""
        table, _, name = key.rpartition(".")
        for its in self.choices:
            kind = self.types.get(table) or its.types({}).get(table)
            if kind is None or not (table == its.key or table.rpartition(".")[0] == its.key):
                continue
            others = [
                f'"{other}"'
                for other in its.mark.registry
                if name in its.mark.registry[other].options.model_fields
            ]
            if others:
                place = self.origins.of(f"{table}.type")
                has = "has" if len(others) == 1 else "have"
                return (
                    f'is no setting of {table}.type = "{kind}" ({place}); '
                    f"{', '.join(others)} {has} it"
                )
        return ""

    def built(self, schema: type[T]) -> T:
        """The config. Raises ConfigError for the first value out of bounds."""
        return self._built(schema, "")

    def _built(self, schema: type[Any], prefix: str, known: dict[str, Any] | None = None) -> Any:
        """`known`: values of fields that are not set."""
        given = dict(known or {})
        nested = dict(tables(schema))
        for name, field in schema.model_fields.items():
            key, mark = prefix + name, choice(field)
            if name in nested:
                given[name] = self._built(nested[name], key + ".", dict(given.get(name, {})))
            elif mark:
                given[name] = self._chosen(key)
            elif key in self.values:
                given[name] = self.values[key]
        try:
            return schema(**given)
        except ValidationError as error:
            raise self._out_of_bounds(schema, prefix, error) from None

    def _chosen(self, key: str) -> Any:
        """The options under a key, or the dict of them."""
        (its,) = (its for its in self.choices if its.key == key)
        found = {}
        for table, kind in its.types(self.types).items():
            if its.is_off(kind):
                continue
            name = table[len(key) + 1 :]
            start = its.default if isinstance(its.mark, OneOf) else its.default.get(name)
            options = its.mark.registry[kind].options
            known = dict(start) if isinstance(start, options) else {}
            found[name] = self._built(options, f"{table}.", known)
        return found[""] if isinstance(its.mark, OneOf) else found

    def _out_of_bounds(
        self, schema: type[BaseModel], prefix: str, error: ValidationError
    ) -> ConfigError:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        if not first["loc"]:  # of the table as a whole
            inside = [k for k in self.origins if k.startswith(prefix)]
            where = f"{self.origins[inside[0]]}: " if inside else ""
            return ConfigError(f"{where}{prefix[:-1]}: {cause or first['msg']}")
        name = str(first["loc"][0])
        words = bounds(schema.model_fields[name]) if name in schema.model_fields else ""
        problem = f"expected {cause if isinstance(cause, Unexpected) else words or first['msg']}"
        if cause is not None and not isinstance(cause, Unexpected):
            problem = str(cause)  # what a validator of a plugin's says
        found = first["input"]
        text = str(found).lower() if isinstance(found, bool) else shown(found)
        place = self.origins.of(prefix + name)
        where = "" if place == "default" else f"{place}: "
        inner = first["loc"] if len(first["loc"]) > 2 else (name,)  # of a list of tables: its key
        key = prefix + ".".join(map(str, inner))
        return ConfigError(f"{where}{key}: {problem}, found {redact(text)} ({place})")


def _literal(its: Choice) -> Any:
    return next(its.leaves(its.key, its.names[0])).type


def _tables_of(its: Choice, source: Source) -> Iterator[str]:
    """The tables of this choice that a source speaks of, by key."""
    if isinstance(its.mark, OneOf):
        yield its.key
        return
    for name in source.names(its.key):
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{source.where(its.key)}: {its.key}: expected a name of 1 to 64 letters, digits, "
                f"- and _, found {shown(name)}"
            )
        yield f"{its.key}.{name}"


# --- back to text -----------------------------------------------------------------------------


def _grouped(found: Iterator[Leaf]) -> dict[str, list[Leaf]]:
    """Table name -> its settings, in the order of the schema."""
    grouped: dict[str, list[Leaf]] = {}
    for leaf in found:
        grouped.setdefault(leaf.key.rpartition(".")[0], []).append(leaf)
    return grouped


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # a JSON string is a TOML basic string, but for a bare DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, dict):
        pairs = (f"{k if _BARE.fullmatch(k) else toml(k)} = {toml(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    return repr(value)


def dump(config: BaseModel, origins: Origins | None = None) -> str:
    """The whole config as TOML, which loads as an equal one; origins become comments."""
    blocks, types = [], types_of(config)
    for table, settings in _grouped(leaves(type(config), types)).items():
        lines = [f"[{table}]"] if table else []
        for leaf in settings:
            name = leaf.key.rpartition(".")[2]
            off = name == "type" and types.get(table) == OFF
            value = OFF if off else value_at(config, leaf.key)
            if value is None:
                continue
            place = origins.of(leaf.key) if origins is not None else "default"
            line = f"{name} = {toml(value)}"
            lines.append(line if place == "default" else f"{line}  # {place}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def help_text(schema: type[BaseModel]) -> str:
    """Every setting by table: name, type, default, meaning; of all types of a table."""
    blocks = []
    by_key = {its.key: its for its in choices(schema)}
    told: set[str] = set()
    for table, settings in _grouped(leaves(schema)).items():
        its = by_key.get(table) or by_key.get(table.rpartition(".")[0])
        if its is None:
            blocks.append(_help_of(f"[{table}]" if table else "", settings))
        elif its.key not in told:
            told.add(its.key)
            blocks += _help_of_types(its)
    return "\n\n".join(blocks) + "\n"


def _help_of(title: str, settings: Sequence[Leaf]) -> str:
    lines = [title] if title else []
    for leaf in settings:
        kind = expected(leaf.type).removesuffix(" in quotes")
        lines.append(f"  --{leaf.key}  ({kind}; default {toml(leaf.default)})")
        lines.append(f"      {leaf.help}" + (f" Valid: {leaf.bounds}." if leaf.bounds else ""))
        if leaf.lists:
            lines.append(f"      {leaf.lists.kind}: {', '.join(leaf.lists.names())}.")
    return "\n".join(lines)


def _help_of_types(its: Choice) -> Iterator[str]:
    """The settings of each type; where tables have names, under the name that is the type's."""
    named = isinstance(its.mark, Named)
    if named:
        default = ", ".join(its.default) or "none"
        kinds = ", ".join(f'"{name}"' for name in its.names)
        yield (
            f"[{its.key}.NAME]\n  --{its.key}.NAME.type  (one of {kinds}; default: NAME, where it "
            f"is one)\n      {its.help} There by default: {default}."
        )
    else:
        yield _help_of(f"[{its.key}]", [next(its.leaves(its.key, its.default.type))])
    for kind in its.mark.registry:
        key = f"{its.key}.{kind}" if named else its.key
        told = named and kind in its.default  # else the type stands above, for all of them
        settings = list(its.leaves(key, kind))[0 if told else 1 :]
        title = f'[{key}] type = "{kind}": {its.mark.registry[kind].summary}.'
        yield _help_of(title, settings)
