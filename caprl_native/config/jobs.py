"""Settings that all long jobs have: what they work through, in which parts."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from caprl_native.bounds import Must, UserPath
from caprl_native.config.fields import Table


def _is_shard(text: str) -> bool:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    return found is not None and int(found[1]) < int(found[2])


class InputConfig(Table):
    """What a job works through."""

    files: list[UserPath] = Field(
        [],
        description="Media, folders, patterns, lists (.jsonl, .json, .parquet, .txt), WebDataset "
        'shards (.tar), or "-": a list on standard input.',
    )
    media_root: UserPath = Field(
        "", description="Folder that paths in lists start from; empty: the list's own."
    )
    limit: int = Field(0, ge=0, description="Only the first entries; 0: all.")
    shard: Annotated[str, Must(_is_shard, "k/m, part k of m with k from 0 to m - 1")] = Field(
        "0/1", description='"k/m": part k (from 0) of m, by a hash of the id.'
    )

    @property
    def part(self) -> tuple[int, int]:
        """The shard as numbers."""
        number, of = map(int, self.shard.split("/"))
        return number, of
