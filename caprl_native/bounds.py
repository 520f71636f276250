"""Bounds of single settings, with the words in which an error tells them.

They stand in the annotations of the fields of options and config tables, beside pydantic's own
(`Field(ge=0)`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import annotated_types
from pydantic import GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from caprl_native.files import user_path


class Unexpected(ValueError):
    """A value that breaks a field's bounds; the text says what was expected."""


@dataclass(frozen=True)
class Must:
    """A condition on one field: `Annotated[float, Must(lambda x: 0 <= x <= 1, "a share")]`."""

    holds: Callable[[Any], bool]
    words: str
    obvious: bool = False  # not worth telling where nothing is wrong

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
    Must(
        _any_file_system_takes,
        "a path of at most 4,000 bytes, 255 in each of its names",
        obvious=True,
    ),
]


def bounds(field: FieldInfo) -> str:
    """What a field's value must be beside its type, in words; empty where it may be anything."""
    words, low, high = [], "", ""
    for mark in field.metadata:
        match mark:
            case Must() if not mark.obvious:
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
