"""What every run does around its steps: its folder, signals, checkpoints, log and export."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.stateful import Stateful

from caprl_native import checkpoint
from caprl_native.base_model import BaseModel
from caprl_native.config.cli import dump
from caprl_native.config.schema import Config, SftConfig
from caprl_native.data.invalid import write_dropped
from caprl_native.data.loader import Loader, SkipLedger, TooManySkipped
from caprl_native.data.records import DataError, Records
from caprl_native.distributed.errors import RunError, report_failure_once, writing
from caprl_native.distributed.signals import Interrupts
from caprl_native.distributed.world import ParallelDims
from caprl_native.export import Exporter, export
from caprl_native.observe.log import RunLog
from caprl_native.policy.model import Policy
from caprl_native.policy.model_check import ModelError
from caprl_native.redact import redact
from caprl_native.run_folder import RunFolder

C = TypeVar("C", Config, SftConfig)
EXPLAINED = (
    DataError,
    TooManySkipped,
    FileNotFoundError,
    FloatingPointError,
    ModelError,
    RunError,
)  # failures of any run whose message says it all
DROPPED = "dropped.jsonl"  # in the run's folder: what was left out of the data

log = logging.getLogger(__name__)


class Lifecycle(Generic[C]):
    """The base of trainers. A subclass builds what is annotated here, then calls `open_log`.

    `step`: the last step that is done; the subclass moves it on.
    """

    loader: Loader
    ledger: SkipLedger
    policy: Policy
    optimizer: torch.optim.Optimizer
    log: RunLog

    def __init__(self, config: C, dims: ParallelDims) -> None:
        self.config: C = config
        self.dims = dims
        self.interrupts, self.stopping = Interrupts(), 0
        self.place = RunFolder(config.run, main=dims.is_main)
        self.folder, self.step = self.place.path, self.place.step
        self.first_metrics: dict[str, float] = {}

    def report_dropped(self, *read: Records) -> None:
        """Says what was left out of the data, and lists it in the run's folder."""
        if not self.dims.is_main or not read[0].invalid:
            return
        reports = [records.dropped for records in read]
        self.first_metrics = {
            "data/dropped_questions": sum(report.dropped_questions for report in reports),
            "data/dropped_records": sum(report.dropped_records for report in reports),
        }
        file = self.folder / DROPPED
        with writing(file):
            write_dropped(file, reports)
        for report, name in zip(reports, ("data.files", "data.eval_files"), strict=False):
            if report.items:
                log.warning("%s: %s; all: %s", name, report.summary(), file)
                log.warning("the first of them:\n%s", report.listing())

    def keep_decoded(self, records: Records) -> None:
        """Embedded files of training data that is shuffled are kept on disk, as the config says."""
        data = self.config.data
        if data.shuffle and data.cache_dir != "none":
            records.keep_decoded(Path(data.cache_dir) if data.cache_dir else self.folder / "cache")

    def open_log(self) -> None:
        """Opens the log, and writes the resolved config of a new run into its folder."""
        if not self.step:
            self.place.write_config(self.resolved)
        config, main = self.config, self.dims.is_main
        self.log = RunLog(
            self.folder, config.log, main=main, name=config.run.name, resolved=self.resolved
        )

    @property
    def resolved(self) -> str:
        """The config with all its settings, keys left out."""
        return redact(dump(self.config))

    @property
    def parts(self) -> dict[str, Stateful]:
        """What keeps a state beside the model and its optimizer, by the name it is saved under."""
        parts: dict[str, Stateful] = {"loader": self.loader, "ledger": self.ledger}
        policy = self.config.policy
        if policy.lora.is_on:
            parts["base"] = BaseModel(policy.path, policy.lora)
        return parts if self.loader.history is None else parts | {"history": self.loader.history}

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        run = self.config.run
        return run.steps or run.epochs * self.loader.batches_per_epoch

    def begin(self) -> None:
        """Resumes where asked. The folder's config is then this one, and not before: a checkpoint
        that these settings cannot go on from keeps its own."""
        checkpoint.begin(self.place.checkpoints, self.step, self.policy, self.optimizer, self.parts)
        if self.step:
            self.place.write_config(self.resolved)
        if self.loader.history is not None:
            self.loader.history.write_all()
        self.log.start(self.step, self.total_steps, self.first_metrics)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to come, until the last one or an interrupt."""
        self.interrupts.finish_steps()
        while self.step < self.total_steps and not self.stopping:
            yield self.step + 1

    def save(self, step: int) -> None:
        """A checkpoint, when this step is due or the run is about to end."""
        every = self.config.run.save_every
        self.stopping = self.interrupts.requested()
        last = step == self.total_steps or self.stopping
        if not last and (not every or step % every):
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        run = self.config.run
        with self.log.timed("save"):
            checkpoint.save(
                self.place.checkpoints,
                step,
                self.policy,
                self.optimizer,
                state,
                run.keep,
                export=self._exporter() if self._exports_now() else None,
                keep_exports=run.keep_exports,
            )

    def _exporter(self) -> Exporter:
        policy = self.config.policy
        return Exporter(self.policy, policy.path, policy.dtype)

    def _exports_now(self) -> bool:
        """Whether the checkpoint gets a Hugging Face copy; an interrupted run's last one does."""
        run = self.config.run
        return run.export and (run.export_every_save or bool(self.stopping))

    def finish(self) -> None:
        """Exports the policy once the last step is done.

        Raises:
            Stopped: a signal came before; the step that it interrupted is saved.
        """
        if self.step < self.total_steps:
            self.log.close()
            self.place.stop(self.step, self.total_steps, self.stopping)
        if self.config.run.export:
            policy = self.config.policy
            export(self.policy, policy.path, self.folder / "export", policy.dtype)

    def flush(self) -> None:
        """What a rank that fails still does, alone: its log is closed, the run marked as failed.

        Each metrics line and rollout log is in its file as soon as its step is reported. Worker
        processes end with the one that started them.
        """
        if hasattr(self, "log"):
            self.log.close(failed=True)

    def close(self) -> None:
        """Stops workers and logs, and lets other processes into the folder."""
        self.loader.close()
        self.log.close()
        self.place.close()


L = TypeVar("L", bound=Lifecycle[Any])


def run_to_end(
    build: Callable[[], L], loop: Callable[[L], None], *further: type[Exception]
) -> None:
    """Builds a trainer, runs its loop, and closes it: all ranks together, at a good end.

    On a failure every rank ends its process at once, see `report_failure_once`; the message of
    `EXPLAINED` exceptions, and of `further` ones, says it all.
    """
    trainer: L | None = None
    try:
        with report_failure_once(*EXPLAINED, *further) as failure:
            trainer = build()
            failure.flush = trainer.flush
            loop(trainer)
    finally:  # also when a signal has stopped it
        if trainer is not None:
            trainer.close()
        if dist.is_initialized():  # vLLM's shutdown may have ended it already
            dist.destroy_process_group()
