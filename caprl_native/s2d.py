"""Static-to-dynamic bootstrapping: `torchrun -m caprl_native.s2d --config s2d.toml`.

Stage 1 is a run of caprl_native.train on images, stage 2 one on videos that starts from the first
one's exported weights, not from its optimizer. Each rank is a supervisor that has no torch process
group and no engine: the ranks of a stage are its child processes (stages.py). Started again, it
skips a finished stage and resumes the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caprl_native.config.cli import ConfigError
from caprl_native.config.s2d import S2dConfig
from caprl_native.distributed.children import appears
from caprl_native.stages import Stage, check_stages, command_line, require_data, train, verify

_USAGE = """\
usage: torchrun --nproc-per-node N -m {prog} --config s2d.toml [--table.key value ...]

  Trains on images, then on videos from the model that came of it. Give the same command again to
  go on: what is finished is skipped, what was interrupted is resumed.

  --dry-run           print the resolved configs of both stages, and stop
  --help              print this and stop
  --table.key value   set one value below; settings of a stage stand in its files

"""


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command_line(S2dConfig, "caprl_native.s2d", _USAGE, argv, stages, run)


def stages(config: S2dConfig) -> tuple[Stage, Stage]:
    """Both stages, checked. Raises ConfigError."""
    image = Stage(1, tuple(config.image.files))
    start = start_of(image, config.video.start)
    video = Stage(2, tuple(config.video.files), (f"--policy.path={start}",))
    check_stages([image, video])
    if image.config().policy.lora.is_on and config.video.start != "last":
        raise ConfigError(
            f'video.start = {config.video.start!r}: expected "last": a checkpoint of stage 1 holds '
            "its adapter alone (policy.lora.rank)"
        )
    return image, video


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


def run(config: S2dConfig, chain: Sequence[Stage]) -> None:
    """The stages that are asked for, one after the other; leaves by SystemExit where one fails."""
    image, video = chain
    wanted = {"image": [image], "video": [video], "both": [image, video]}
    require_data(wanted[config.stages])
    if config.stages != "video":
        train(image)
    if config.stages == "image":
        return
    start = require_start(image, config.video.start)
    if not video.is_finished:
        verify(image, video, start)
    train(video)


if __name__ == "__main__":
    main()
