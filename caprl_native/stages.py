"""Runs one after the other, each from the export of the one before: what S2D and pretraining share.

Each rank is a supervisor that has no torch process group and no engine: the ranks of a stage are
its child processes, so that nothing of one stage is left when the next one begins. Started again,
they skip a finished stage and resume the other.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caprl_native.config.cli import (
    ConfigError,
    check,
    check_sft,
    dump,
    exit_with_error,
    load_with_origins,
    parse_cli,
    print_once,
    warn_once,
)
from caprl_native.config.fields import Table
from caprl_native.config.schema import Config, SftConfig
from caprl_native.distributed.children import appears, in_child, rendezvous
from caprl_native.distributed.launcher import adopt_slurm
from caprl_native.files import matching


@dataclass(frozen=True)
class Stage:
    """One run: `overrides` go to the trainer's command line, after its files. `supervised`: of
    caprl_native.sft, else of caprl_native.train."""

    number: int
    files: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    supervised: bool = False

    def config(self) -> Config | SftConfig:
        """Raises ConfigError, as the trainer itself would."""
        if self.supervised:
            learning, origins = load_with_origins(SftConfig, self.files, self.overrides)
            check_sft(learning, origins)
            return learning
        config, origins = load_with_origins(Config, self.files, self.overrides)
        check(config, origins)
        return config

    @property
    def folder(self) -> Path:
        return self.config().run.folder

    @property
    def export(self) -> Path:
        """There once the last step is done, and not before."""
        return self.folder / "export"

    @property
    def is_finished(self) -> bool:
        return (self.export / "config.json").is_file()

    def command(self) -> list[str]:
        """The trainer's words: resumed where there is a checkpoint; what was left by a run that had
        none is put aside."""
        saved = any(self.folder.glob("checkpoints/step_*[0-9]/manifest.json"))
        go_on = "--run.resume=latest" if saved else "--run.overwrite=true"
        return ["--config", *self.files, *self.overrides, go_on]


def check_stages(stages: list[Stage]) -> None:
    """Raises ConfigError where these could not follow one another."""
    configs = [stage.config() for stage in stages]
    for stage, config in zip(stages, configs, strict=True):
        if not config.run.export:
            raise ConfigError(
                f"stage {stage.number}: run.export: expected true: by its export a stage ends"
            )
        if config.policy.lora.is_on and config.policy.lora.export == "adapter":
            raise ConfigError(
                f'stage {stage.number}: policy.lora.export: expected "merged": a stage ends with a '
                "whole model"
            )
    folders = [config.run.folder.resolve() for config in configs]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            shown = configs[i].run.folder
            raise ConfigError(f"run.dir: expected two folders, found {shown} in both stages")
    for stage, config in zip(stages, configs, strict=True):
        if config.run.resume or config.run.overwrite:
            raise ConfigError(
                f"stage {stage.number}: run.resume, run.overwrite: expected neither: what is there "
                "is gone on with by itself"
            )


def require_data(chain: Sequence[Stage]) -> None:
    """Raises ConfigError where a stage that is not finished lacks a data file: it would be noticed
    when the stages before it have been trained."""
    for stage in chain:
        if stage.is_finished:
            continue
        config = stage.config()
        asked = {"data.files": config.data.files}
        if config.eval.every:
            asked["data.eval_files"] = config.data.eval_files
        for key, names in asked.items():
            for name in names:
                if not any(map(os.path.exists, matching(name))):
                    raise ConfigError(f"stage {stage.number}: {key}: {name}: no file matches")


def command_line(
    schema: type[Table],
    prog: str,
    usage: str,
    argv: list[str] | None,
    chain_of: Callable[[Any], Sequence[Stage]],
    run: Callable[[Any, Sequence[Stage]], None],
) -> None:
    """The program of a chain: exits 2 on what cannot be used, else with the code of the stage that
    ends it. `run` is given the config and its stages."""
    adopt_slurm()
    args = parse_cli(schema, sys.argv[1:] if argv is None else argv, prog, usage=usage)
    try:
        chain = chain_of(args.config)
        if args.dry_run:
            print_once(*(f"# stage {s.number}\n{dump(s.config())}" for s in chain))
            return
        run(args.config, chain)
    except ConfigError as error:
        exit_with_error(error)


def train(stage: Stage) -> None:
    """Runs a stage to its end in child processes, one for each rank; a finished one is skipped."""
    if stage.is_finished:
        warn_once(f"stage {stage.number} is finished: {stage.export} is there")
        return
    command = stage.command()

    def ranks() -> None:
        if stage.supervised:
            from caprl_native import sft

            sft.main(command)
        else:
            from caprl_native import train as trainer

            trainer.main(command)

    # A signal that is a scheduler's ends a stage with 0 before its last step.
    if (code := in_child(ranks, rendezvous(stage.number))) or not appears(
        stage.export / "config.json"
    ):
        raise SystemExit(code)


def verify(before: Stage, after: Stage, start: Path) -> None:
    """Rank 0 looks whether a stage can start from a directory; the others wait for it in that
    stage.

    Leaves by SystemExit with 2 where it cannot.
    """
    if os.environ.get("RANK", "0") != "0":
        return

    def probe() -> None:
        from caprl_native.export_check import check_export
        from caprl_native.policy.model_check import ModelError

        logging.disable(logging.WARNING)  # of transformers, on what the trainer does not use
        try:
            check_export(start, before.config().policy.path, after.config().media)
        except (ModelError, OSError, ValueError) as error:
            exit_with_error(
                ConfigError(
                    f"stage {after.number} cannot start from {start}: {error}; remove it, and give "
                    f"the command again: it is then made from stage {before.number}'s checkpoint"
                )
            )

    if code := in_child(probe, {}):
        raise SystemExit(code)
