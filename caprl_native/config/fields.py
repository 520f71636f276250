"""What a config is made of: tables, and tables whose keys depend on their type."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from caprl_native.bounds import Unexpected
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

    def is_off(self, kind: str) -> bool:
        """Whether a table of this type is left out; a registry may have a "none" of its own."""
        return kind == OFF and kind not in self.registry

    def validated(self, value: Any) -> dict[str, Options]:
        """Options by name, without those that are switched off (where no registered type is)."""
        if not isinstance(value, Mapping):
            raise Unexpected("tables by name")
        one = OneOf(self.registry)
        given = {k: {"type": k, **v} if isinstance(v, Mapping) else v for k, v in value.items()}
        return {
            name: one.validated(options)
            for name, options in given.items()
            if not (isinstance(options, Mapping) and self.is_off(options["type"]))
        }


@dataclass(frozen=True)
class Lists:
    """A setting that is told by what lies under a path: `--help` lists what is known.

    `registry`: "module:NAME", imported for that alone; the config imports neither families nor
    formats, which import it.
    """

    kind: str
    registry: str

    def names(self) -> list[str]:
        """What is registered, plugins included."""
        module, _, name = self.registry.partition(":")
        return list(getattr(importlib.import_module(module), name))


def listed(field: FieldInfo) -> Lists | None:
    """What `--help` lists under a field, beside its meaning."""
    return next((mark for mark in field.metadata if isinstance(mark, Lists)), None)


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
