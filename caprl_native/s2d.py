"""Static-to-dynamic bootstrapping: `torchrun -m caprl_native.s2d --config s2d.toml`.

Stage 1 is a run of caprl_native.train on images, stage 2 one on videos that starts from the first
one's exported weights, not from its optimizer. Each rank is a supervisor that has no torch process
group and no engine: the ranks of a stage are its child processes, so that nothing of one stage is
left when the next one begins. Started again, it skips a finished stage and resumes the other.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from caprl_native.config.cli import (
    ConfigError,
    check,
    dump,
    exit_with_error,
    load_with_origins,
    parse_cli,
    print_once,
    warn_once,
)
from caprl_native.config.s2d import S2dConfig
from caprl_native.config.schema import Config
from caprl_native.distributed.children import appears, in_child, rendezvous
from caprl_native.distributed.launcher import adopt_slurm

_USAGE = """\
usage: torchrun --nproc-per-node N -m {prog} --config s2d.toml [--table.key value ...]

  Trains on images, then on videos from the model that came of it. Give the same command again to
  go on: what is finished is skipped, what was interrupted is resumed.

  --dry-run           print the resolved configs of both stages, and stop
  --help              print this and stop
  --table.key value   set one value below; settings of a stage stand in its files

"""


@dataclass(frozen=True)
class Stage:
    """One run: `overrides` go to the trainer's command line, after its files."""

    number: int
    files: tuple[str, ...]
    overrides: tuple[str, ...] = ()

    def config(self) -> Config:
        """Raises ConfigError, as the trainer itself would."""
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


def main(argv: list[str] | None = None) -> None:
    """The command line: exits 2 on what cannot be used, else with the code of the stage that ends
    it."""
    adopt_slurm()
    words = sys.argv[1:] if argv is None else argv
    args = parse_cli(S2dConfig, words, "caprl_native.s2d", usage=_USAGE)
    try:
        image, video = stages(args.config)
        if args.dry_run:
            print_once(*(f"# stage {s.number}\n{dump(s.config())}" for s in (image, video)))
            return
        run(args.config, image, video)
    except ConfigError as error:
        exit_with_error(error)


def stages(config: S2dConfig) -> tuple[Stage, Stage]:
    """Both stages, checked. Raises ConfigError."""
    image = Stage(1, tuple(config.image.files))
    first = image.config()
    start = start_of(image, config.video.start)
    video = Stage(2, tuple(config.video.files), (f"--policy.path={start}",))
    second = video.config()
    if not (first.run.export and second.run.export):
        number = 1 if not first.run.export else 2
        raise ConfigError(f"stage {number}: run.export: expected true: by its export a stage ends")
    _check_adapters(first, second, config.video.start)
    if first.run.folder.resolve() == second.run.folder.resolve():
        raise ConfigError(f"run.dir: expected two folders, found {first.run.folder} in both stages")
    for number, one in enumerate((first, second), 1):
        if one.run.resume or one.run.overwrite:
            raise ConfigError(
                f"stage {number}: run.resume, run.overwrite: expected neither: what is there is "
                "gone on with by itself"
            )
    return image, video


def _check_adapters(first: Config, second: Config, start: str) -> None:
    """Raises ConfigError where a stage would end with an adapter alone, or start from one."""
    for number, one in enumerate((first, second), 1):
        if one.policy.lora.is_on and one.policy.lora.export == "adapter":
            raise ConfigError(
                f'stage {number}: policy.lora.export: expected "merged": a stage ends with a whole '
                "model"
            )
    if first.policy.lora.is_on and start != "last":
        raise ConfigError(
            f'video.start = {start!r}: expected "last": a checkpoint of stage 1 holds its adapter '
            "alone (policy.lora.rank)"
        )


def start_of(image: Stage, start: str) -> Path:
    """The directory that stage 2 starts from."""
    if start == "last":
        return image.export
    return image.folder / "checkpoints" / f"step_{int(start):08d}" / "hf"


def require_start(image: Stage, start: str) -> Path:
    """The same, which is there. Raises ConfigError that says how to make it."""
    folder = start_of(image, start)
    if appears(folder / "config.json"):
        return folder
    if start == "last":
        how = '"image" or "both" in `stages` trains stage 1, or exports its last checkpoint'
    else:
        how = (
            f"make it by `python tools/export.py --checkpoint {image.folder} --step {start} "
            f"--to {folder}`, if that checkpoint is there"
        )
    raise ConfigError(
        f"video.start = {start!r}: stage 2 starts from {folder}, which is no model directory: {how}"
    )


def run(config: S2dConfig, image: Stage, video: Stage) -> None:
    """The stages that are asked for, one after the other; leaves by SystemExit where one fails."""
    if config.stages != "video":
        train(image)
    if config.stages == "image":
        return
    start = require_start(image, config.video.start)
    if not video.is_finished:
        verify(image, video, start)
    train(video)


def train(stage: Stage) -> None:
    """Runs a stage to its end in child processes, one for each rank; a finished one is skipped."""
    if stage.is_finished:
        warn_once(f"stage {stage.number} is finished: {stage.export} is there")
        return
    command = stage.command()

    def ranks() -> None:
        from caprl_native import train as trainer

        trainer.main(command)

    # A signal that is a scheduler's ends a stage with 0 before its last step.
    if (code := in_child(ranks, rendezvous(stage.number))) or not appears(
        stage.export / "config.json"
    ):
        raise SystemExit(code)


def verify(image: Stage, video: Stage, start: Path) -> None:
    """Rank 0 looks whether stage 2 can start from a directory; the others wait for it in stage 2.

    Leaves by SystemExit with 2 where it cannot.
    """
    if os.environ.get("RANK", "0") != "0":
        return

    def probe() -> None:
        from caprl_native.export_check import check_export
        from caprl_native.policy.model_check import ModelError

        logging.disable(logging.WARNING)  # of transformers, on what the trainer does not use
        try:
            check_export(start, image.config().policy.path, video.config().media)
        except (ModelError, OSError, ValueError) as error:
            exit_with_error(
                ConfigError(
                    f"stage 2 cannot start from {start}: {error}; remove it, and give the command "
                    "again: it is then made from stage 1's checkpoint"
                )
            )

    if code := in_child(probe, {}):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
