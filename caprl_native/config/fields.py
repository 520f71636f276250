"""What the fields of a config are made of: tables, bounds in words, and tables of a chosen type."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import annotated_types
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from caprl_native.files import user_path
from caprl_native.registry import Options, Registry

OFF = "none"  # the type of an entry of a named table that is switched off


class Table(BaseModel):
    """A table of a config file: each field with its bounds and its meaning."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, validate_default=True, allow_inf_nan=False
    )

    def replace(self, **changes: Any) -> Self:
        """A copy with other values of some fields; what they hold is shared."""
        return type(self)(**(dict(self) | changes))


class Unexpected(ValueError):
    """A value that breaks a field's bounds; the text says what was expected."""


@dataclass(frozen=True)
class Must:
    """A condition on one field: `Annotated[float, Must(lambda x: 0 <= x <= 1, "a share")]`."""

    holds: Callable[[Any], bool]
    words: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        if not self.holds(value):
            raise Unexpected(self.words)
        return value


def _any_file_system_takes(path: str) -> bool:
    longest = max((len(os.fsencode(name)) for name in path.split("/")), default=0)
    return longest <= 255 and len(os.fsencode(path)) <= 4000


@dataclass(frozen=True)
class _ExpandsHome:
    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(user_path, handler(source))


Share = Annotated[float, Must(lambda share: 0 <= share <= 1, "a share between 0 and 1")]
Temperature = Annotated[float, Must(lambda t: 0 <= t <= 2, "0 to 2, what engines accept")]
UserPath = Annotated[  # of a file or a folder; a leading `~` is the user's home folder
    str,
    _ExpandsHome(),
    Must(_any_file_system_takes, "a path of at most 4,000 bytes, 255 in each of its names"),
]


def bounds(field: FieldInfo) -> str:
    """What a field's value must be beside its type, in words; empty where it may be anything."""
    words, low, high = [], "", ""
    for mark in field.metadata:
        match mark:
            case Must():
                words.append(mark.words)
            case annotated_types.Ge():
                low = f"{mark.ge} or more"
            case annotated_types.Gt():
                low = f"more than {mark.gt}"
            case annotated_types.Le():
                high = f"at most {mark.le}"
            case annotated_types.Lt():
                high = f"less than {mark.lt}"
    return ", ".join(part for part in (*words, low, high) if part)


# --- tables of a chosen type ------------------------------------------------------------------


@dataclass(frozen=True)
class OneOf:
    """A table whose `type` names an entry of a registry, and whose other keys are its options.

    loss: Annotated[Options, OneOf(LOSSES)] = Field({"type": "ppo"}, description="...")
    """

    registry: Registry[Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validated)

    def validated(self, value: Any) -> Options:
        """The options that a mapping with a `type` means; options are taken as they are."""
        if isinstance(value, Options):
            return value
        if not isinstance(value, Mapping) or value.get("type") not in self.registry:
            known = ", ".join(f'"{name}"' for name in self.registry)
            raise Unexpected(f"options with a type, one of {known}")
        return self.registry[value["type"]].options(**value)


@dataclass(frozen=True)
class Named:
    """A table of tables by name, each as `OneOf` reads it; a name may stand for its type.

    terms: Annotated[dict[str, Options], Named(TERMS)] = Field({"accuracy": {}}, ...)
    """

    registry: Registry[Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validated)

    def validated(self, value: Any) -> dict[str, Options]:
        """Options by name, without those that are switched off."""
        if not isinstance(value, Mapping):
            raise Unexpected("tables by name")
        one = OneOf(self.registry)
        given = {k: {"type": k} | v if isinstance(v, Mapping) else v for k, v in value.items()}
        return {
            name: one.validated(options)
            for name, options in given.items()
            if not (isinstance(options, Mapping) and options["type"] == OFF)
        }


def choice(field: FieldInfo) -> OneOf | Named | None:
    """How a field's table gets its keys, where that depends on a type."""
    return next((mark for mark in field.metadata if isinstance(mark, OneOf | Named)), None)


def default(field: FieldInfo) -> Any:
    """A field's default value: options, not the mapping that means them."""
    value = field.get_default(call_default_factory=True, validated_data={})
    mark = choice(field)
    return mark.validated(value) if mark else value


def tables(schema: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields of a schema that are tables with keys of their own."""
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if not choice(field) and isinstance(kind, type) and issubclass(kind, BaseModel):
            yield name, kind
