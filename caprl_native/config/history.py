"""What captions leave for the prompts of later samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.config.fields import Table


class HistoryConfig(Table):
    """Only of record formats whose prompts are made of what earlier captions left."""

    pick: Literal["first_valid", "best", "none_if_wrong"] = Field(
        "first_valid",
        description="Which caption of a group leaves its text, among those of the right form that "
        'got a reward: the first one, that of the highest reward, or ("none_if_wrong") that of the '
        "highest reward among the right ones, and none where there is no right one.",
    )
    right: str = Field(
        "correct",
        description="The part of a reward that is more than 0.5 where a caption is right, as "
        '"TERM/PART", or "PART" of whichever term has it.',
    )
    state: str = Field(
        "state",
        description="The part of a reward that is 0 where a caption has the right form, likewise; "
        "captions without it are judged by their form alone.",
    )
    missing: Literal["error", "empty"] = Field(
        "error",
        description="What becomes of prompts whose earlier texts are not there, because a sample "
        "could not be used, say: the run ends, or they are taken as empty.",
    )
