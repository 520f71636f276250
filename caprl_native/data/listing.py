"""What a job works through, entry by entry: media, and what else their list says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from caprl_native.types import MediaRef


@dataclass(frozen=True)
class Entry:
    """One unit of a job's input: usually an image or a video.

    `columns`: what else its line says, kept for the output. `problem`: why it is none (a line that
    is no JSON, a field that is missing); such an entry fails with this reason, and nothing is lost.
    """

    id: str
    media: tuple[MediaRef, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    source: str = ""  # "file:line", for messages
    problem: str = ""
