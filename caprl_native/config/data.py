"""The settings of a run's data."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from caprl_native.bounds import Must, Share, UserPath
from caprl_native.config.fields import Lists, Table
from caprl_native.config.history import HistoryConfig

Files = Annotated[list[UserPath], Must(all, "file names that are not empty")]


def _are_positive(numbers: list[float]) -> bool:
    return all(0 < number < math.inf for number in numbers)


class DataConfig(Table):
    files: Annotated[Files, Lists("Record formats", "caprl_native.data.record_formats:FORMATS")] = (
        Field([], description="Training files: JSONL, JSON lists or Parquet.")
    )
    eval_files: Files = Field([], description="Held-out files in the same formats.")
    media_root: UserPath = Field(
        "", description="Folder that relative media paths start from; empty: the data file's own."
    )
    hold_out: Share = Field(
        0.0,
        description="In place of eval_files: this share of the training records is held out by "
        "run.seed, no medium of which is trained on; 0: none.",
    )
    prompt: str = Field(
        "", description="Replaces the user turn's text of every record; empty: the record's own."
    )
    batch_size: int = Field(128, ge=1, description="Prompts per step, over all ranks.")
    max_prompt_tokens: int = Field(
        13000,
        ge=1,
        description="Longest prompt, media tokens counted, see media.fit; text is never cut.",
    )
    shuffle: bool = Field(True, description="Reshuffle the records in every epoch.")
    curriculum: str = Field(
        "",
        description="Column with a whole number per record, its stage: an epoch goes through the "
        "stages in order, shuffled within each; empty: there are none.",
    )
    history: HistoryConfig = Field(default_factory=HistoryConfig)
    workers: int = Field(
        2,
        ge=0,
        description="Loader processes per rank that decode media; 0: decode in the training "
        "process.",
    )
    prefetch: int = Field(2, ge=1, description="Batches that each loader process prepares ahead.")
    prefetch_gib: float = Field(
        4.0, gt=0, description="They pause while so much waits, GiB per rank; never at a first one."
    )
    max_blind_accuracy: Share = Field(
        1.0, description="Questions answered more often without a caption are left out; 1: none."
    )
    question_weights: str = Field("", description="Column with a weight per question; empty: none.")
    invalid_questions: Literal["error", "drop"] = Field(
        "error",
        description="Questions that cannot be asked (one choice, no right one, ...) end the run at "
        "its start, or are left out.",
    )
    invalid_records: Literal["error", "drop"] = Field(
        "error", description="The same of records that are wrong in another way (no media, ...)."
    )
    max_dropped_share: Share = Field(
        0.02,
        description="The run does not begin when more than this share of the questions, or of the "
        "records, would be left out.",
    )
    cache_dir: UserPath = Field(
        "",
        description="Folder where files embedded in Parquet are kept once decoded, so that random "
        'order costs nothing; empty: cache in the run\'s folder; "none": nowhere.',
    )
    max_skipped_share: Share = Field(
        0.05,
        description="The run fails when more than this share of the samples seen could not be "
        "used.",
    )


class SftDataConfig(DataConfig):
    loss_on: Literal["response", "assistant", "all"] = Field(
        "assistant",
        description="Train on the last answer, on all of the assistant's turns, or on all text.",
    )
    max_tokens: int = Field(
        0,
        ge=0,
        description="Longest conversation, answers and media tokens counted: it is cut off behind "
        "the last answer that fits, and left out where the first does not. 0: no limit.",
    )
    mix: Annotated[list[float], Must(_are_positive, "numbers above 0")] = Field(
        [],
        description="One number for each entry of data.files: how many times an epoch goes through "
        "its records; of a fraction an epoch takes others than the one before. Empty: once.",
    )
    mix_records: Annotated[list[int], Must(_are_positive, "numbers above 0")] = Field(
        [], description="In place of data.mix: how many records of each entry an epoch has."
    )


class SftEvalConfig(Table):
    every: int = Field(
        0,
        ge=0,
        description="Held-out loss on data.eval_files, or what data.hold_out keeps, every this "
        "many steps, at step 0 and at the end; 0: never.",
    )
    samples: int = Field(0, ge=0, description="Held-out samples used; 0: all.")
