"""Every setting of a captioning job."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn

from pydantic import Field

from caprl_native.bounds import Temperature, UserPath
from caprl_native.config.cli import ConfigError, Origins
from caprl_native.config.fields import Table
from caprl_native.config.jobs import InputConfig
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import CaptionerConfig
from caprl_native.config.schema import Program
from caprl_native.inference.model_problem import model_problem

Format = Literal["jsonl", "json", "parquet", "llava", "openai"]


class BulkCaptionerConfig(CaptionerConfig):
    """The captioner; what a job has beyond an evaluation's."""

    n: int = Field(1, ge=1, description="Captions per entry.")
    max_tokens: int = Field(4096, ge=1, description="Longest caption, in tokens.")
    temperature: Temperature = Field(1.0, description="Of images; 0: greedy.")
    video_temperature: Temperature = Field(0.7, description="Of videos; 0: greedy.")
    video_top_p: float = Field(0.8, gt=0, le=1, description="Nucleus sampling of videos.")
    time_stamps: bool = Field(
        False, description="Ask for time stamps in videos, unless video_prompt is given."
    )


class OutputConfig(Table):
    """What is written, and which captions are not."""

    file: UserPath = Field("", description="The output; <file>.work beside it holds the job.")
    format: Format = Field("jsonl", description="jsonl, json, parquet, llava or openai.")
    drop_truncated: bool = Field(False, description="A caption that was cut off is a failure.")
    retry_truncated: int = Field(
        0, ge=0, description="Further attempts, with other seeds, at a caption that was cut off."
    )
    retry_degenerate: int = Field(
        0, ge=0, description="The same for one whose end repeats itself, or that is empty."
    )


class JobConfig(Table):
    """How the job runs."""

    seed: int = Field(0, description="Seed of sampled captions.")
    replicas: int = Field(1, ge=1, description="Copies of a model in process, as Ray actors.")
    ray: str = Field("", description="Address of a Ray cluster for them; empty: this machine.")
    chunk: int = Field(256, ge=1, le=100_000, description="Entries that become one file.")
    overwrite: bool = Field(False, description="Begin anew: an earlier job's results are deleted.")
    retry_failed: bool = Field(False, description="Try again what has failed.")
    progress: bool = Field(True, description="Show progress.")


class CaptionConfig(Program):
    """The whole of a captioning job's settings."""

    input: InputConfig = Field(default_factory=InputConfig)
    captioner: BulkCaptionerConfig = Field(default_factory=BulkCaptionerConfig)
    media: MediaConfig = Field(default_factory=MediaConfig)
    output: OutputConfig = Field(default_factory=OutputConfig)
    run: JobConfig = Field(default_factory=JobConfig)


def check(config: CaptionConfig, origins: Origins) -> None:
    """Raises ConfigError for settings that contradict each other or leave something open."""

    def fail(key: str, problem: str) -> NoReturn:
        raise ConfigError(f"{origins.of(key)}: {key}: {problem}")

    if not config.input.files:
        fail("input.files", "nothing to caption: give --input")
    if not config.output.file:
        fail("output.file", "give --output")
    if Path(config.output.file).is_dir():
        fail("output.file", f"{config.output.file} is a folder; give a file's name")
    model = config.captioner
    if model.n > 1 and not (model.temperature and model.video_temperature):
        fail("captioner.n", "greedy captions are all alike: give captioner.n = 1 or a temperature")
    if not (model.path or model.endpoint):
        fail("captioner.path", "no model: give --model or --endpoint")
    if problem := model_problem("captioner", model, sees=True):
        fail(*problem)
