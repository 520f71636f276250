"""The stage of a curriculum that a record belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caprl_native.data.fields import FieldError
from caprl_native.messages import shown

_MOST = 2**31 - 1


def stage_of(raw: Mapping[str, Any], column: str) -> int:
    """The stage of a record. Raises `FieldError` unless the column holds a whole number from 0."""
    value = raw.get(column)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        found = shown(value, 60)
        problem = "missing" if value is None else f"expected a whole number from 0, got {found}"
        fix = "give every record its stage, or unset data.curriculum"
        raise FieldError(column, problem, fix, "no stage")
    return value
