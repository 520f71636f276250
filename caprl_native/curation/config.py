"""Every setting of the curation of questions: one model per TOML table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn

from pydantic import Field

from caprl_native.bounds import Share, Temperature, UserPath
from caprl_native.config.cli import ConfigError, Origins
from caprl_native.config.fields import Table
from caprl_native.config.jobs import InputConfig
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import VisionModelConfig
from caprl_native.config.schema import Program
from caprl_native.inference.model_problem import model_problem

STAGES = ("generate", "extract", "answer", "filter")
Stage = Literal["generate", "extract", "answer", "filter", "all"]


class WriterConfig(VisionModelConfig):
    temperature: Temperature = Field(0.1, description="Sampling temperature; 0: greedy.")
    max_tokens: int = Field(2048, ge=1, description="Longest output, in tokens.")
    repetition_penalty: float = Field(
        1.05, gt=0, le=2, description="Penalty on tokens that were there before; 1: none."
    )
    questions: int = Field(5, ge=1, le=50, description="Questions per image or video.")
    choices: int = Field(4, ge=2, le=10, description="Options per question.")
    time_share: Share = Field(
        0.4, description="Share of a video's questions that need the order or the time of events."
    )


class SolverConfig(VisionModelConfig):
    temperature: Temperature = Field(0.1, description="Sampling temperature; 0: greedy.")
    max_tokens: int = Field(4, ge=1, description="Longest answer, in tokens.")
    repetition_penalty: float = Field(
        1.05, gt=0, le=2, description="Penalty on tokens that were there before; 1: none."
    )
    rounds: int = Field(
        4,
        ge=1,
        le=64,
        description="Times that each question is asked with the media, and again without.",
    )
    none_of_the_above: Literal["both", "image", "neither"] = Field(
        "both",
        description='Where "None of the above" is offered: with and without the media, only with '
        'them ("image"), or nowhere.',
    )

    @property
    def is_given(self) -> bool:
        """Whether there is one."""
        return bool(self.path or self.endpoint)


class FilterConfig(Table):
    visual_above: Share = Field(
        0.75, description="Questions are kept whose accuracy with the media is above this."
    )
    text_below: float = Field(
        0.25, gt=0, le=2, description="And whose accuracy without them is below this; above 1: any."
    )
    min_questions: int = Field(
        1, ge=1, description="Images and videos with fewer questions left are left out."
    )
    max_per_question_words: int = Field(
        0, ge=0, description="Questions of more words (Chinese: characters) are left out; 0: none."
    )


class OutputConfig(Table):
    dir: UserPath = Field(
        "", description="Where everything is kept; empty: outputs/curation/<run.name>."
    )
    format: Literal["parquet", "jsonl"] = Field("parquet", description="Of the training file.")
    embed: bool = Field(
        True, description="Images lie in the training file; false: their paths. Videos are paths."
    )
    shuffle: bool = Field(
        True, description="Shuffle each question's choices, so that no letter is right more often."
    )
    image_prompt: str = Field(
        "",
        description='What the captioner is asked; empty: "Please describe this image in detail."',
    )
    video_prompt: str = Field("", description="The same for videos.")


class CurationRunConfig(Table):
    name: str = Field("qa", min_length=1, description="Name of the run.")
    stage: Stage = Field("all", description="Run one stage alone, on what the others have left.")
    seed: int = Field(0, ge=0, description="Seed of outputs, permutations and shuffled choices.")
    recheck: UserPath = Field(
        "",
        description="A data file with questions to answer and filter, in place of written ones.",
    )
    retry_failed: bool = Field(False, description="Try inputs again that failed for what they are.")
    overwrite: bool = Field(
        False, description="Begin the stages anew that this call runs; what they left is removed."
    )
    replicas: int = Field(
        1, ge=1, description="Copies of an in-process model, as Ray actors where there are several."
    )
    ray: str = Field("", description="Address of a Ray cluster for them; empty: this machine.")
    chunk: int = Field(64, ge=1, description="Inputs whose results lie in one file of the work.")
    progress: bool = Field(True, description="Show progress.")
    html: bool = Field(True, description="Write report.html.")
    examples: int = Field(
        5, ge=0, description="Questions that the report shows for each reason; 0: none."
    )


class CurationConfig(Program):
    """The whole of a curation's settings."""

    run: CurationRunConfig = Field(default_factory=CurationRunConfig)
    input: InputConfig = Field(default_factory=InputConfig)
    writer: WriterConfig = Field(default_factory=WriterConfig)
    solver: SolverConfig = Field(default_factory=SolverConfig)
    solver2: SolverConfig = Field(default_factory=SolverConfig)
    filter: FilterConfig = Field(default_factory=FilterConfig)
    output: OutputConfig = Field(default_factory=OutputConfig)
    media: MediaConfig = Field(default_factory=MediaConfig)

    @property
    def shard(self) -> tuple[int, int]:
        """Which part of how many."""
        return self.input.part

    @property
    def folder(self) -> Path:
        """Where this run, or its shard, keeps everything."""
        folder = Path(self.output.dir or f"outputs/curation/{self.run.name}")
        k, m = self.shard
        return folder if m == 1 else folder / f"shard-{k:05d}-of-{m:05d}"


def stages(config: CurationConfig) -> tuple[str, ...]:
    """The stages that this call runs, in order; a check of given questions writes none."""
    asked = STAGES if config.run.stage == "all" else (config.run.stage,)
    return tuple(s for s in asked if not (config.run.recheck and s == "generate"))


def solvers(config: CurationConfig) -> list[SolverConfig]:
    """The models that answer: one, or two."""
    return [config.solver, *([config.solver2] if config.solver2.is_given else [])]


def check(config: CurationConfig, origins: Origins) -> None:
    """Raises ConfigError for settings that contradict each other or leave something open."""

    def fail(key: str, problem: str) -> NoReturn:
        raise ConfigError(f"{origins.of(key)}: {key}: {problem}")

    if config.run.recheck and config.run.stage == "generate":
        fail("run.recheck", 'has questions already; contradicts run.stage = "generate"')
    if "-" in config.input.files:
        fail("input.files", '"-" can be read once alone; put the list into a file')
    if not config.run.recheck and not config.input.files:
        fail("input.files", "no input; give images, videos, or lists of them")
    needed = {"generate": ["writer"], "answer": ["solver"]}
    for table in [t for stage in stages(config) for t in needed.get(stage, [])]:
        model = getattr(config, table)
        if not (model.path or model.endpoint):
            fail(f"{table}.path", f"no model: give {table}.path or {table}.endpoint")
    for table in ("writer", "solver", "solver2"):
        if problem := model_problem(table, getattr(config, table), sees=True):
            fail(*problem)
    if config.solver2.is_given and not config.solver.is_given:
        fail("solver2.path", "is the second solver; give the first in [solver]")
