"""What a run warns of, because it may be a way to the reward that is no better caption."""

from __future__ import annotations

from pydantic import Field

from caprl_native.config.fields import Table


class AlarmsConfig(Table):
    """Each figure is a metric whatever its bound; a bound of 0 switches the warning off."""

    stamps: float = Field(
        30.0, ge=0, description="Warn above this many time stamps per 100 words of a caption."
    )
    repetition: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Warn above this share of a caption's runs of four words that it has had "
        "before.",
    )
    length_ratio: float = Field(
        2.0,
        ge=0,
        description="Warn where captions are this many times as long, or as short, as they were in "
        "the first steps.",
    )
    first_steps: int = Field(10, ge=1, description="How many first steps lengths are compared to.")
    blind_every: int = Field(
        50,
        ge=0,
        description="Every this many steps the reader answers the questions of the step's samples "
        "without a caption; 0: never.",
    )
    blind_share: float = Field(
        0.5,
        ge=0,
        description="Warn where it then reaches this share of the accuracy with captions.",
    )
    no_choice: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Warn where this share of the reader's answers is none of the choices.",
    )
    quiet_steps: int = Field(
        50, ge=1, description="After a warning the same one is not given again for so many steps."
    )
