"""Every setting of an evaluation: one model per TOML table, each field with its meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn, Self

from pydantic import Field, create_model

from caprl_native.bounds import UserPath
from caprl_native.config.cli import ConfigError, Origins
from caprl_native.config.fields import Table
from caprl_native.config.media import MediaConfig
from caprl_native.config.models import CaptionerConfig, ModelConfig
from caprl_native.config.schema import Program
from caprl_native.inference.model_problem import model_problem
from eval.benchmarks import benchmarks
from eval.report.published import comparison_problem

Fail = Callable[[str, str], NoReturn]  # of a key, and what is wrong with it
STAGES = ("caption", "answer", "judge", "report")


class EvalRunConfig(Table):
    name: str = Field("prism", description="Name of the run; the column it gets in comparisons.")
    dir: UserPath = Field("", description="Where everything is kept; empty: outputs/prism/<name>.")
    seed: int = Field(0, description="Seed of captions and answers that are sampled.")
    mode: Literal["captions", "direct"] = Field(
        "captions",
        description="What is measured: captions, by a reader's answers from them alone, or "
        '("direct") the captioner\'s own answers with the media in view.',
    )
    step: int = Field(
        0,
        ge=0,
        description="Step of training in the names of the reference's files; 0: from the "
        "captioner's path (step_20, global_step1800_hf), if it has one.",
    )
    stage: Literal["all", "caption", "answer", "judge", "report"] = Field(
        "all", description="Run one stage alone, on what the others have left."
    )
    limit: int = Field(0, ge=0, description="Only the first items of each benchmark; 0: all.")
    rule: Literal["official", "caprl"] = Field(
        "official",
        description='Scores by the rule of each benchmark, or by that of the reference ("caprl").',
    )
    skip_judge: bool = Field(False, description="Ask no judge; verdicts that need one are missing.")
    keep_failed: bool = Field(
        False, description="Leave failed captions and answers instead of trying again."
    )
    replicas: int = Field(
        1,
        ge=1,
        description="Copies of each in-process model, as Ray actors where there are several.",
    )
    ray: str = Field("", description="Address of a Ray cluster for them; empty: this machine.")
    allow_outside: bool = Field(
        False,
        description="Annotation files may name media outside of the folder that media paths start "
        "from.",
    )
    progress: bool = Field(True, description="Show progress.")


class JudgeConfig(ModelConfig):
    repeats: int = Field(
        1,
        ge=1,
        description="Judgements of everything that is judged: figures are their mean, and the "
        "report has their spread.",
    )
    attempts: int = Field(
        3,
        ge=1,
        description="Replies asked for until one can be read; in process at temperature 0 one.",
    )


class BenchmarkConfig(Table):
    files: list[UserPath] = Field(
        [], description="Annotation files; none: the benchmark is not run."
    )
    media_root: UserPath = Field(
        "", description="Folder that media paths start from; empty: the file's, or its parent."
    )
    captions: list[UserPath] = Field(
        [],
        description="Captions that were made elsewhere, or an earlier run's folder; none: the "
        "captioner writes them.",
    )
    subtitles: UserPath = Field(
        "", description="Folder of subtitles, for benchmarks that have any; empty: none."
    )


class ReportConfig(Table):
    compare: list[UserPath] = Field(
        [],
        description="Folders of other runs, files of the reference's evaluation, or published "
        "figures by name, shown side by side.",
    )
    reference_layout: bool = Field(
        False, description="Also write the reference's files and record layout."
    )
    html: bool = Field(True, description="Write report.html.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the bootstrap intervals.")


def _table_of_benchmarks() -> Any:
    """The schema of `[benchmarks]`, with a table for each that is known by now."""
    one = (BenchmarkConfig, Field(default_factory=BenchmarkConfig))
    tables: dict[str, Any] = dict.fromkeys(benchmarks(), one)
    return create_model("BenchmarksConfig", __base__=Table, **tables)


BenchmarksConfig: Any = _table_of_benchmarks()


class PrismConfig(Program):
    """The whole of an evaluation's settings."""

    run: EvalRunConfig = Field(default_factory=EvalRunConfig)
    captioner: CaptionerConfig = Field(default_factory=CaptionerConfig)
    reader: ModelConfig = Field(default_factory=ModelConfig)
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    media: MediaConfig = Field(default_factory=MediaConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    benchmarks: BenchmarksConfig = Field(default_factory=BenchmarksConfig)

    @classmethod
    def grown(cls) -> type[Self]:
        known: Any = cls.model_fields["benchmarks"].annotation
        if set(benchmarks()) <= set(known.model_fields):
            return cls
        table = _table_of_benchmarks()
        field = (table, Field(default_factory=table))
        return create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, benchmarks=field)


def chosen(config: PrismConfig) -> dict[str, BenchmarkConfig]:
    """The benchmarks that have files, by name."""
    given = dict(config.benchmarks)  # not of a benchmark that was registered later
    return {name: given[name] for name in benchmarks() if name in given and given[name].files}


def stages(config: PrismConfig) -> tuple[str, ...]:
    """The stages that this call runs, in order."""
    asked = STAGES if config.run.stage == "all" else (config.run.stage,)
    left_out = {"judge"} if config.run.skip_judge else set()
    left_out |= {"caption"} if is_direct(config) else set()
    return tuple(s for s in asked if s not in left_out)


def is_direct(config: PrismConfig) -> bool:
    """Whether the captioner itself answers, with the media in view."""
    return config.run.mode == "direct"


def captions_needed(config: PrismConfig) -> bool:
    """Whether the captioner has captions to write."""
    return not is_direct(config) and any(not given.captions for given in chosen(config).values())


def reader_needed(config: PrismConfig) -> bool:
    """Whether some benchmark asks the reader; the captions of others are judged themselves."""
    return not is_direct(config) and any(benchmarks()[n].asks_reader for n in chosen(config))


def check(config: PrismConfig, origins: Origins) -> None:
    """Raises ConfigError for settings that contradict each other or leave something open."""

    def fail(key: str, problem: str) -> NoReturn:
        raise ConfigError(f"{origins.of(key)}: {key}: {problem}")

    _check_benchmarks(config, fail)
    asks_captioner = is_direct(config) or captions_needed(config)
    if asks_captioner and config.captioner.n > 1 and not config.captioner.temperature:
        fail("captioner.n", "greedy captions are all alike: give captioner.n = 1 or a temperature")
    for table in ("captioner", "reader", "judge"):
        if problem := model_problem(table, getattr(config, table), sees=table == "captioner"):
            fail(*problem)
    # Replies are found by what wrote them, so later stages need the earlier ones' models, too.
    needed = ["captioner"] if asks_captioner else []
    needed += ["reader"] if config.run.stage != "caption" and reader_needed(config) else []
    for table in needed:
        if not (getattr(config, table).path or getattr(config, table).endpoint):
            fail(f"{table}.path", f"no model: give {table}.path or {table}.endpoint")
    judge = config.judge
    if judge.repeats > 1 and judge.path and not judge.temperature:
        fail("judge.repeats", "a greedy judge in process repeats itself: give it a temperature")
    if config.run.stage == "judge" and config.run.skip_judge:
        fail("run.skip_judge", 'contradicts run.stage = "judge"')
    if is_direct(config):
        _check_direct(config, fail)
    for name in config.report.compare:
        if why := comparison_problem(name):
            fail("report.compare", why)


def _check_direct(config: PrismConfig, fail: Fail) -> None:
    """What has no meaning where there are no captions."""
    if config.run.stage == "caption":
        fail("run.stage", '"caption" contradicts run.mode = "direct", which has no captions')
    if config.report.reference_layout:
        fail("report.reference_layout", 'contradicts run.mode = "direct": its files hold captions')
    for name, given in chosen(config).items():
        if given.captions:
            fail(f"benchmarks.{name}.captions", 'contradicts run.mode = "direct"')
        if not benchmarks()[name].asks_reader:
            fail("run.mode", f'"direct" has no captions, which {name} judges')


def _check_benchmarks(config: PrismConfig, fail: Fail) -> None:
    if not chosen(config):
        known = ", ".join(benchmarks())
        fix = "give --benchmark NAME --data-path FILE, or [benchmarks.NAME] files; names"
        fail("benchmarks", f"no benchmark has files; {fix}: {known}")
    has_judge = bool(config.judge.path or config.judge.endpoint)
    for name in chosen(config):
        if config.run.rule not in benchmarks()[name].rules:
            fail("run.rule", f'{name} has no rule "{config.run.rule}"; it has the official one')
        asks = benchmarks()[name].judged_by_model and config.run.rule == "official"
        if asks and "judge" in stages(config) and not has_judge:
            fail("judge.path", f"{name} needs a judge: give judge.path or judge.endpoint, or leave "
                 "its verdicts out with --skip-judge")  # fmt: skip
