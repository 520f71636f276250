"""Settings of static-to-dynamic bootstrapping (`python -m caprl_native.s2d`): its two stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from caprl_native.bounds import Must
from caprl_native.config.data import Files
from caprl_native.config.fields import Table


class ImageStage(Table):
    files: Annotated[Files, Must(bool, "at least one config of caprl_native.train")] = Field(
        ["s2d_image.toml"], description="Configs of stage 1, overlaid left to right."
    )


class VideoStage(Table):
    files: Annotated[Files, Must(bool, "at least one config of caprl_native.train")] = Field(
        ["s2d_video.toml"], description="Configs of stage 2; policy.path is stage 1's export."
    )
    start: Annotated[
        str, Must(lambda s: s == "last" or s.isdecimal(), '"last" or a step number in quotes')
    ] = Field("last", description="The step of stage 1 that stage 2 starts from.")


class S2dConfig(Table):
    image: ImageStage = Field(default_factory=ImageStage)
    video: VideoStage = Field(default_factory=VideoStage)
    stages: Literal["both", "image", "video"] = Field("both", description="Which stages to run.")
