"""Records of annotation files as JSON: written into result files, and found again in them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from eval.items import Item


def as_json(record: Any) -> Any:
    """A record as JSON can hold it; of embedded files their length."""
    if isinstance(record, dict):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [as_json(value) for value in record]
    if isinstance(record, bytes):
        return f"<{len(record)} bytes>"
    return record if record is None or isinstance(record, str | int | float) else str(record)


def _key(record: Any) -> str:
    return json.dumps(as_json(record), sort_keys=True)


def _asked(record: Any) -> str:
    """Prompt and answer alone, for files whose paths were changed since."""
    found = record if isinstance(record, dict) else {}
    return _key([found.get("prompt", found.get("question")), found.get("answer")])


def pair(records: Sequence[Any], items: Iterable[Item]) -> dict[int, Item]:
    """The item of each record, by the record's number; records that no item has are left out.

    Equal records are paired with their items in order. What is equal in prompt and answer alone,
    and nothing else is, is taken for the same: media may lie elsewhere now.
    """
    left = list(items)
    found: dict[int, Item] = {}
    for key, alone in ((_key, False), (_asked, True)):
        mine, theirs = defaultdict(list), defaultdict(list)
        for item in left:
            mine[key(item.record)].append(item)
        for number, record in enumerate(records):
            if number not in found:
                theirs[key(record)].append(number)
        for name, numbers in theirs.items():
            if not alone or len(numbers) == len(mine[name]) == 1:
                found |= dict(zip(numbers, mine[name], strict=False))
        taken = {id(item) for item in found.values()}
        left = [item for item in left if id(item) not in taken]
    return found
