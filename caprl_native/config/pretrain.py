"""Settings of the pretraining experiment (`python -m caprl_native.pretrain`): its three stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from caprl_native.bounds import Must
from caprl_native.config.data import Files
from caprl_native.config.fields import Table

STAGES = ("align", "captions", "sft")
_Configs = Annotated[Files, Must(bool, "at least one config of caprl_native.sft")]


def _are_in_order(names: list[str]) -> bool:
    return bool(names) and [name for name in STAGES if name in names] == names


class AlignStage(Table):
    files: _Configs = Field(
        ["pretrain_align.toml"],
        description="Configs of the stage that trains the projector alone, overlaid left to right.",
    )


class CaptionsStage(Table):
    files: _Configs = Field(
        ["pretrain_captions.toml"],
        description="Configs of the stage that learns the captions under test.",
    )


class InstructionStage(Table):
    files: _Configs = Field(
        ["pretrain_sft.toml"], description="Configs of the stage that learns to answer."
    )


class PretrainConfig(Table):
    align: AlignStage = Field(default_factory=AlignStage)
    captions: CaptionsStage = Field(default_factory=CaptionsStage)
    sft: InstructionStage = Field(default_factory=InstructionStage)
    stages: Annotated[
        list[str], Must(_are_in_order, 'some of "align", "captions", "sft", in this order')
    ] = Field(
        list(STAGES),
        description="Which stages to run. The first starts from its own policy.path, each other "
        "from the export of the one before it in this list.",
    )
