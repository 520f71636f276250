"""Every setting of a captioning job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

from pydantic import Field

from caprl_native.bounds import Temperature, UserPath
from caprl_native.config.cli import ConfigError, Origins
from caprl_native.config.fields import Table
from caprl_native.config.models import CaptionerConfig, ModelConfig
from caprl_native.config.schema import MediaConfig, Program
from caprl_native.inference.endpoint import key_problem, settings_problem
from caprl_native.policy.model_check import ModelError, check_directory

Format = Literal["jsonl", "json", "parquet", "llava", "openai"]
Fail = Callable[[str, str], NoReturn]  # of a key, and what is wrong with it


class InputConfig(Table):
    """What is captioned."""

    files: list[UserPath] = Field(
        [],
        description="Media, folders, patterns, lists (.jsonl, .json, .parquet, .txt), WebDataset "
        'shards (.tar), or "-": a list on standard input.',
    )
    media_root: UserPath = Field(
        "", description="Folder that paths in lists start from; empty: the list's own."
    )
    limit: int = Field(0, ge=0, description="Only the first entries; 0: all.")
    shard: str = Field(
        "0/1",
        pattern=r"^\d{1,6}/\d{1,6}$",
        description='"k/m": part k (from 0) of m, by a hash of the id; outputs can be joined.',
    )

    @property
    def part(self) -> tuple[int, int]:
        """The shard as numbers."""
        number, of = map(int, self.shard.split("/"))
        return number, of


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
    part, parts = config.input.part
    if part >= parts:
        fail("input.shard", f"{config.input.shard}: expected k/m with k below m, from 0/m on")
    if not config.output.file:
        fail("output.file", "give --output")
    if Path(config.output.file).is_dir():
        fail("output.file", f"{config.output.file} is a folder; give a file's name")
    model = config.captioner
    if model.n > 1 and not (model.temperature and model.video_temperature):
        fail("captioner.n", "greedy captions are all alike: give captioner.n = 1 or a temperature")
    if not (model.path or model.endpoint):
        fail("captioner.path", "no model: give --model or --endpoint")
    if problem := model_problem(model):
        fail(f"captioner.{problem[0]}", problem[1])


def model_problem(model: ModelConfig, *, sees: bool = True) -> tuple[str, str] | None:
    """The field of a model's table that cannot be meant, and why."""
    if model.path and model.endpoint:
        return "endpoint", "path is set, too; give one of them"
    if model.endpoint and not model.model:
        return "model", "an endpoint needs the name of its model"
    if model.path and not (Path(model.path) / "config.json").is_file():
        return "path", f"{model.path} is no Hugging Face model directory: no config.json"
    try:
        if model.path:
            check_directory(model.path, processor=sees)
    except ModelError as error:
        return "path", str(error)
    return settings_problem(model) or key_problem(model)
