"""A config's schema as a flat map from dotted keys ("policy.lr") to settings.

Which keys a table of a chosen type has depends on the type: `types` holds the choices, by the key
of the table ("algorithm.loss", "reward.terms.length"), where they differ from the defaults.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types as python_types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from caprl_native.bounds import bounds
from caprl_native.config.fields import OFF, Lists, Named, OneOf, choice, default, listed, tables
from caprl_native.registry import Options

Types = Mapping[str, str]
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # of a text: no file system and no tokenizer takes it


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting of the schema."""

    key: str
    type: Any
    default: Any
    help: str
    bounds: str = ""
    lists: Lists | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A table of a chosen type, or a table of such tables by name."""

    key: str
    mark: OneOf | Named
    default: Any  # options, or a dict of them
    help: str

    @property
    def names(self) -> tuple[str, ...]:
        """All types."""
        return tuple(self.mark.registry) + ((OFF,) if self.is_off(OFF) else ())

    def is_off(self, kind: str) -> bool:
        """Whether a table of this type is left out."""
        return isinstance(self.mark, Named) and self.mark.is_off(kind)

    def default_type(self, key: str) -> str | None:
        """The type of the table under this key (the choice's own, or a name's) if none is given."""
        if isinstance(self.mark, OneOf):
            return self.default.type
        name = key[len(self.key) + 1 :]
        if name in self.default:
            return self.default[name].type
        return name if name in self.mark.registry else None

    def types(self, given: Types) -> dict[str, str]:
        """The type of each table, by key."""
        keys = [self.key]
        if isinstance(self.mark, Named):
            known = [f"{self.key}.{name}" for name in self.default]
            keys = known + [k for k in given if k.startswith(f"{self.key}.") and k not in known]
        return {key: given.get(key) or self.default_type(key) or OFF for key in keys}

    def leaves(self, key: str, kind: str) -> Iterator[Leaf]:
        """The settings of the table under this key, if it is of that type."""
        start = self.default if isinstance(self.mark, OneOf) else self.default.get(_last(key))
        yield Leaf(f"{key}.type", Literal[self.names], self.default_type(key) or kind, self.help)
        if self.is_off(kind):
            return
        options = self.mark.registry[kind].options
        known = start if isinstance(start, options) else None
        yield from (
            leaf for leaf in leaves(options, {}, f"{key}.", known) if leaf.key != f"{key}.type"
        )


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def choices(schema: type[BaseModel], prefix: str = "") -> Iterator[Choice]:
    """All tables of a schema whose keys depend on a type."""
    for name, field in schema.model_fields.items():
        if mark := choice(field):
            yield Choice(prefix + name, mark, default(field), field.description or "")
    for name, kind in tables(schema):
        yield from choices(kind, f"{prefix}{name}.")


def leaves(
    schema: type[BaseModel], types: Types | None = None, prefix: str = "", known: Any = None
) -> Iterator[Leaf]:
    """All settings of a schema, plain fields of a table before its nested tables.

    `known`: an instance whose values are the defaults.
    """
    nested = dict(tables(schema))
    for name, field in schema.model_fields.items():
        if name not in nested and not choice(field):
            value = default(field) if known is None else getattr(known, name)
            help = field.description or ""
            kind = _stripped(field.annotation)
            yield Leaf(prefix + name, kind, value, help, bounds(field), listed(field))
    for name, field in schema.model_fields.items():
        if name in nested:
            inner = None if known is None else getattr(known, name)
            yield from leaves(nested[name], types, f"{prefix}{name}.", inner)
        elif mark := choice(field):
            its = Choice(prefix + name, mark, default(field), field.description or "")
            for key, kind in its.types(types or {}).items():
                yield from its.leaves(key, kind)


def types_of(config: BaseModel) -> dict[str, str]:
    """The type of every table of a config whose keys depend on it; "none" of those switched off."""
    found: dict[str, str] = {}
    for its in choices(type(config)):
        value = value_at(config, its.key)
        if isinstance(value, Options):
            found[its.key] = value.type
            continue
        found |= {f"{its.key}.{name}": OFF for name in its.default}
        found |= {f"{its.key}.{name}": options.type for name, options in value.items()}
    return found


def value_at(config: Any, key: str) -> Any:
    """The value under a dotted key; KeyError or AttributeError where there is none."""
    for name in key.split(".") if key else ():
        if isinstance(config, list):
            config = config[int(name)]
        else:
            config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


# --- types of settings ------------------------------------------------------------------------


def _stripped(kind: Any) -> Any:
    """A field's type without `Annotated` and `None`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _stripped(arguments[0])
    if origin in (typing.Union, python_types.UnionType):
        kinds = tuple(_stripped(a) for a in arguments if a is not type(None))
        return typing.Union[kinds]  # noqa: UP007  # of one kind: that kind
    if origin is list:  # mypy takes a call within `list[...]` for a type that is written down
        return list[_stripped(arguments[0])]  # type: ignore[misc]
    return kind


def expected(kind: Any) -> str:
    """A field's type in the words of an error message."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return " or ".join(expected(a) for a in arguments)
    if origin is Literal:
        return "one of " + ", ".join(f'"{v}"' for v in arguments)
    if origin is list:
        words = {str: "texts", float: "numbers", int: "whole numbers"}
        word = "tables" if _is_table(arguments[0]) else words.get(arguments[0], "texts")
        return f"a list of {word}"
    if dict in (kind, origin):
        return "a table"
    words = {bool: "true or false", int: "a whole number", float: "a finite number"}
    return words.get(kind, "a text in quotes")


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _typed_table(schema: type[BaseModel], value: Any) -> Any:
    """The known keys of a table typed; unknown ones are left to the schema's own error."""
    if not isinstance(value, dict):
        raise ValueError
    fields = schema.model_fields
    return {
        key: typed(_stripped(fields[key].annotation), v) if key in fields else v
        for key, v in value.items()
    }


def _typed_as_one(kinds: Sequence[Any], value: Any) -> Any:
    for kind in kinds:
        try:
            return typed(kind, value)
        except ValueError:
            continue
    raise ValueError


def typed(kind: Any, value: Any) -> Any:
    """The value as the field holds it (integers pass for floats); ValueError if it does not fit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return _typed_as_one(arguments, value)
    if _is_table(kind):
        return _typed_table(kind, value)
    if origin is Literal:
        fits = isinstance(value, str) and value in arguments
    elif origin is list:
        fits = isinstance(value, list)
        value = [typed(arguments[0], v) for v in value] if fits else value
    elif dict in (kind, origin):
        fits = isinstance(value, dict)
    elif kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and abs(value) <= sys.float_info.max  # nan and larger integers are not
        value = float(value) if fits else value
    elif kind is int:
        fits = type(value) is int and -(2**63) <= value < 2**63  # not isinstance: True is an int
    else:
        fits = type(value) is kind and not (kind is str and _UNUSABLE.search(value))
    if not fits:
        raise ValueError
    return value
