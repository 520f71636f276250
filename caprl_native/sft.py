"""Supervised training of captioners and readers: `torchrun -m caprl_native.sft --config X.toml`.

Records hold a prompt, its media and a `response`. The model is a vision-language model of a
registered family, or any causal language model when the records are text alone. Earlier turns of
the assistant are learnt like the response, unless `data.loss_on` says otherwise.

The loop is in `train`; what each verb does stands under its name in sft_trainer.py.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from caprl_native.config.cli import (
    ConfigError,
    dump,
    exit_with_error,
    parse_cli,
    print_once,
    warn_once,
)
from caprl_native.config.schema import SftConfig
from caprl_native.distributed.cuda import cuda_problem
from caprl_native.distributed.launcher import adopt_slurm
from caprl_native.dry_run import Device, check_sft_machine, plan_sft, world_size

if TYPE_CHECKING:
    from caprl_native.sft_trainer import SftTrainer


def train(trainer: SftTrainer) -> None:
    """Responses are made likelier, token by token."""
    trainer.begin()
    if trainer.step == 0:
        trainer.evaluate(0)
    for step in trainer.steps():
        rows = trainer.next_rows()
        metrics = trainer.update(rows, step)
        trainer.report(step, metrics)
        trainer.evaluate(step)
        trainer.save(step)
    trainer.finish()


def main(argv: list[str] | None = None) -> None:
    """The command line: exits 2 on a config that cannot be used, 1 on any other failure."""
    adopt_slurm()
    words = sys.argv[1:] if argv is None else argv
    args = parse_cli(SftConfig, words, "caprl_native.sft", plans=True)
    problem = cuda_problem()
    try:
        device = Device.here() if args.gpu_memory is None else Device.of(args.gpu_memory)
        overview = plan_sft(args.config, args.ranks or world_size(), args.origins, device)
        if args.dry_run:
            print_once(dump(args.config, args.origins), overview)
            if problem:
                warn_once(problem)
            return
        if problem:
            raise ConfigError(problem)
        check_sft_machine(args.config, args.origins)
    except ConfigError as error:
        exit_with_error(error)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    run(args.config)


def run(config: SftConfig) -> None:
    """A supervised run on the ranks that torchrun has started."""
    # Torch and transformers come with these: not before --help and --dry-run have answered.
    from caprl_native.distributed.signals import set_parent_death_signal
    from caprl_native.distributed.world import init_distributed
    from caprl_native.lifecycle import run_to_end
    from caprl_native.sft_trainer import SftTrainer

    set_parent_death_signal()
    try:
        dims = init_distributed(threads=config.run.threads)
    except ValueError as error:
        exit_with_error(ConfigError(str(error)))
    run_to_end(lambda: SftTrainer(config, dims), train)


if __name__ == "__main__":
    main()
