"""The settings of the reward: its terms, and who reads captions for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from caprl_native.config.fields import Named, Table
from caprl_native.config.models import HeldOutReaderConfig, ReaderConfig
from caprl_native.rewards.base import TERMS, TermOptions, any_reads

# Defaults of tables with a type, as a file would give them; they become options when validated.
TERMS_DEFAULT: Any = {"accuracy": {}}


class RewardConfig(Table):
    overlap: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Each caption is scored when it is finished, not all when the last one is; "
        '"auto": unless a reader in process answers, which takes the policy\'s device.',
    )
    gate: bool = Field(
        True,
        description="Shaping terms (length, time stamps) are multiplied by the utility, the mean "
        "of the other terms: they count where there is accuracy to protect. False: as published.",
    )
    readers: list[ReaderConfig] = Field(
        [],
        description="Further readers, which every question goes to beside reward.reader: tables "
        "[[reward.readers]] with the same keys; reward.terms.accuracy.readers says what becomes of "
        "their answers.",
    )
    reader: ReaderConfig = Field(default_factory=ReaderConfig)
    held_out_reader: HeldOutReaderConfig = Field(default_factory=HeldOutReaderConfig)
    terms: Annotated[dict[str, TermOptions], Named(TERMS)] = Field(
        TERMS_DEFAULT, description="What is rewarded; the reward is the weighted sum."
    )

    @property
    def reads(self) -> bool:
        """Whether a term that counts asks the reader."""
        return any_reads(self.terms)

    @property
    def asked(self) -> dict[str, ReaderConfig]:
        """All readers of the run, by the key of their table."""
        found = {"reward.reader": self.reader} if self.reads else {}
        found |= {f"reward.readers.{i}": reader for i, reader in enumerate(self.readers)}
        if self.held_out_reader.is_given:
            found["reward.held_out_reader"] = self.held_out_reader
        return found

    @property
    def in_process(self) -> dict[str, ReaderConfig]:
        """Those that run beside the policy."""
        return {key: reader for key, reader in self.asked.items() if reader.path}
