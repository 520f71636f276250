"""GRPO training of a captioner: `torchrun -m caprl_native.train --config video.toml`.

The algorithm is the loop in `train`; what each verb does stands under its name in `trainer.py`.
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
from caprl_native.config.schema import Config
from caprl_native.distributed.cuda import cuda_problem
from caprl_native.distributed.launcher import adopt_slurm
from caprl_native.dry_run import Device, check_machine, check_node, plan, world_size

if TYPE_CHECKING:
    from caprl_native.trainer import Trainer


def train(trainer: Trainer) -> None:
    """Captions are sampled, read, rewarded, and made likelier where they beat their group."""
    trainer.begin()
    if trainer.step == 0:
        trainer.evaluate(0)
    for step in trainer.steps():
        prompts = trainer.next_prompts()
        batch = trainer.rollout(prompts, step)
        trainer.score(batch)
        trainer.refill(batch)
        trainer.assign_advantages(batch)
        metrics = trainer.update(batch)
        trainer.carry_over(batch)
        trainer.sync_weights()
        trainer.report(batch, metrics)
        trainer.evaluate(step)
        trainer.save(step)
    trainer.finish()


def main(argv: list[str] | None = None) -> None:
    """The command line: exits 2 on a config that cannot be used, 1 on any other failure."""
    adopt_slurm()
    words = sys.argv[1:] if argv is None else argv
    args = parse_cli(Config, words, "caprl_native.train", plans=True)
    problem = cuda_problem()
    try:
        if problem and not args.dry_run:
            raise ConfigError(problem)
        device = Device.here() if args.gpu_memory is None else Device.of(args.gpu_memory)
        if args.ranks is None:  # else it plans for nodes of unknown size
            check_node(args.config, args.origins)
        overview = plan(args.config, args.ranks or world_size(), args.origins, device)
        if args.dry_run:
            print_once(dump(args.config, args.origins), overview)
            if problem:
                warn_once(problem)
            return
        check_machine(args.config, args.origins)
    except ConfigError as error:
        exit_with_error(error)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    run(args.config)


def run(config: Config) -> None:
    """A training run on the ranks that torchrun has started."""
    # Torch, vLLM and transformers come with these: not before --help and --dry-run have answered.
    from caprl_native.distributed.signals import set_parent_death_signal
    from caprl_native.distributed.world import init_distributed
    from caprl_native.lifecycle import run_to_end
    from caprl_native.trainer import EXPLAINED, Trainer

    set_parent_death_signal()
    try:
        dims = init_distributed(config.rollout.tensor_parallel_size, config.run.threads)
    except ValueError as error:
        exit_with_error(ConfigError(str(error)))
    run_to_end(lambda: Trainer(config, dims), train, *EXPLAINED)


if __name__ == "__main__":
    main()
