"""The pretraining experiment: `torchrun -m caprl_native.pretrain --config pretrain.toml`.

Three runs of caprl_native.sft, each from the exported weights of the one before: the projector
alone, then everything on captions, then everything on instructions. What the captions are worth is
what the last model answers; without the stage of captions it is the comparison. Started again, it
skips the stages that are finished and resumes the one that was interrupted (stages.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import tomli

from caprl_native.config.cli import ConfigError
from caprl_native.config.pretrain import PretrainConfig
from caprl_native.stages import Stage, check_stages, command_line, require_data, train, verify

_USAGE = """\
usage: torchrun --nproc-per-node N -m {prog} --config pretrain.toml [--table.key value ...]

  Trains the projector, then on captions, then on instructions, each from the model that came of
  the stage before. Give the same command again to go on: what is finished is skipped, what was
  interrupted is resumed.

  --dry-run           print the resolved configs of the stages, and stop
  --help              print this and stop
  --table.key value   set one value below; settings of a stage stand in its files

"""


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command_line(PretrainConfig, "caprl_native.pretrain", _USAGE, argv, stages, run)


def stages(config: PretrainConfig) -> list[Stage]:
    """Those that are asked for, each from the export of the one before. Raises ConfigError."""
    chain: list[Stage] = []
    for number, name in enumerate(config.stages, 1):
        start = (f"--policy.path={chain[-1].export}",) if chain else ()
        chain.append(Stage(number, tuple(getattr(config, name).files), start, supervised=True))
    check_stages(chain)
    return chain


def check_origin(stage: Stage) -> None:
    """Raises ConfigError where the stage's folder holds a run that started from another model: it
    would be taken for this one."""
    config = stage.config()
    file = config.run.folder / "config.toml"
    if not file.is_file():
        return
    try:
        there = tomli.loads(file.read_text()).get("policy", {}).get("path")
    except (OSError, tomli.TOMLDecodeError) as error:
        raise ConfigError(f"stage {stage.number}: {file} cannot be read: {error}") from error
    if there != config.policy.path:
        raise ConfigError(
            f"stage {stage.number}: run.dir: {config.run.folder} holds a run that started from "
            f"{there}, and this one starts from {config.policy.path}; give it another folder"
        )


def run(_: PretrainConfig, chain: Sequence[Stage]) -> None:
    """The stages, one after the other; leaves by SystemExit where one fails."""
    for stage in chain:
        check_origin(stage)
    require_data(chain)
    for number, stage in enumerate(chain):
        if number and not stage.is_finished:
            before = chain[number - 1]
            verify(before, stage, before.export)
        train(stage)


if __name__ == "__main__":
    main()
